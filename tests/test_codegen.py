"""What is left of the gRPC code that protoc writes."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codegen import clients

PROTO = """
syntax = "proto3";
package zoo;
message Animal { string name = 1; }
// Feeds.
service Keeper { rpc Feed(Animal) returns (Animal); }
service Vet { rpc Heal(stream Animal) returns (stream Animal); }
"""
PROGRAM = """
import grpc, zoo_pb2_grpc as zoo
channel = grpc.insecure_channel("127.0.0.1:1")
zoo.KeeperStub(channel).Feed, zoo.VetStub(channel).Heal
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "zoo.proto").write_text(PROTO)
    bin_folder = Path(sys.executable).parent
    outputs = [f"--{kind}_out=." for kind in ("python", "grpc_python", "mypy_grpc")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, "zoo.proto"],
        cwd=folder,
        env={**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return folder


def defined(source: str) -> list[str]:
    kinds = (ast.ClassDef, ast.FunctionDef)
    return [node.name for node in ast.parse(source).body if isinstance(node, kinds)]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("zoo_pb2_grpc.py", ["KeeperStub", "VetStub"]),
        ("zoo_pb2_grpc.pyi", ["KeeperStub", "KeeperAsyncStub", "VetStub", "VetAsyncStub"]),
    ],
)
def test_only_clients_are_left(generated: Path, name: str, left: list[str]) -> None:
    written = (generated / name).read_text()
    assert "KeeperServicer" in defined(written)
    cut = clients.clients(written)
    assert defined(cut) == left
    assert "Servicer" not in cut
    assert "_MaybeAsyncIterator" not in cut
    assert clients.clients(cut) == cut


def test_what_is_left_makes_clients_and_checks_its_version(generated: Path, tmp_path: Path) -> None:
    shutil.copytree(generated, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "zoo_pb2_grpc.py"
    clients.main([str(path)])
    run = [sys.executable, "-c", PROGRAM]
    made = subprocess.run(run, cwd=tmp_path, capture_output=True, timeout=60)
    assert made.returncode == 0, made.stderr
    path.write_text(path.read_text().replace("grpc.__version__", "'1.0.0'"))
    old = subprocess.run(run, cwd=tmp_path, capture_output=True, timeout=60)
    assert b"The grpc package installed is at version 1.0.0" in old.stderr
