"""An export killed outright, at any moment, leaves a repository in which every model is whole."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest

from gateway.models.manifest import file_sha256, read_repository
from tests.conftest import ROOT, killed_after
from tests.export import models

MOMENTS = 10
LIMIT_S = 800.0  # for all of them

# Imports once, before anything runs in a thread, and forks for each export.
FORKER = """
import os, pathlib, sys
import torch
import export.pipeline, export.report.summary
from export.__main__ import main
from tests.export.traces import Traces
torch.onnx.export = Traces(pathlib.Path(sys.argv[1])).export
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(line.split("\\t")[:-1]))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Exports:
    """Starts exports, which may be killed."""

    def __init__(self, process: subprocess.Popen[str], arguments: list[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._arguments = arguments

    def start(self) -> int:
        self._stdin.write("\t".join([*self._arguments, "\n"]))
        self._stdin.flush()
        return int(self._stdout.readline())

    def code(self) -> int:
        return int(self._stdout.readline())


@pytest.fixture
def exports(tmp_path: Path, traces: Path) -> Iterator[Exports]:
    config = models.write_config(tmp_path, "tiny-vit", models.vit())
    arguments = [str(config), "--repository", str(tmp_path / "models"), "--id", "tiny"]
    arguments += ["--token-lengths", "12,full", "--max-batch", "2"]
    arguments += ["--report", str(tmp_path / "report")]
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER, str(traces)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # killed ones leave what they have there
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process, killed_after(LIMIT_S, process):
        yield Exports(process, arguments)


def assert_whole(root: Path) -> dict[str, int]:
    """Every published model has its files, and they load; the versions by model id."""
    published = read_repository(root) if list(root.glob("*.manifest.json")) else {}
    for manifest in published.values():
        for name, digest in manifest.files.items():
            assert file_sha256(root / name) == digest
            if name.endswith(".onnx"):
                onnxruntime.InferenceSession(root / name, providers=["CPUExecutionProvider"])
    return {model_id: manifest.version for model_id, manifest in published.items()}


def test_killed_at_ten_random_moments(tmp_path: Path, exports: Exports) -> None:
    root = tmp_path / "models"
    for version in (1, 2):  # the second reads its graphs, as those to be killed do
        start = time.monotonic()
        exports.start()
        assert exports.code() == 0
        whole = time.monotonic() - start
        versions = assert_whole(root)
        assert versions == {"tiny": version}
    seeded = random.Random(9)
    for _ in range(MOMENTS):
        pid = exports.start()
        time.sleep(seeded.uniform(0.2, 1.0) * whole)
        subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)
        assert exports.code() in (0, -9)
        found = assert_whole(root)
        assert all(found[model_id] >= version for model_id, version in versions.items())
        versions = found
    exports.start()
    assert exports.code() == 0
    after = assert_whole(root)
    assert all(after[model_id] == version + 1 for model_id, version in versions.items())
    assert not list(root.glob(".staging-*"))
    folders = {path.name for path in root.glob("*/[0-9]*")}
    assert folders == {str(version) for version in after.values()}
