"""The client's wheel holds the client and nothing of the service, and runs on what it requires."""

import subprocess
import sys
import tomllib
from email import message_from_bytes
from email.message import Message
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from tests.client.fake import vector_of
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

REQUIRED = {"grpcio", "numpy", "protobuf"}


def build(project: Path, folder: Path) -> ZipFile:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=project, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    [wheel] = folder.glob("*.whl")
    return ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    return build(ROOT / "client", tmp_path_factory.mktemp("client-wheel"))


@pytest.fixture(scope="module")
def about(wheel: ZipFile) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_bytes(wheel.read(name))


@pytest.fixture(scope="module")
def site(wheel: ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel unpacked, beside what it requires and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    waiting, found = list(REQUIRED), set[str]()
    while waiting:
        name = waiting.pop()
        distribution = metadata.distribution(name)
        found.add(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
        requirements = map(Requirement, distribution.requires or ())
        needed = {r.name for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})}
        waiting += needed - found
    return folder


def run(site: Path, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program with the standard library and a folder, and no other packages."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(site)!r}); {program}",
         *arguments],
        cwd=site, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_it_holds_the_client_and_the_contract(wheel: ZipFile) -> None:
    names = set(wheel.namelist())
    folders = {name.split("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == {
        "openclip_api", "openclip_triton",
    }  # fmt: skip
    assert {"openclip_triton/py.typed", "openclip_api/v1/clip.proto"} <= names
    assert {f"openclip_api/v1/clip_pb2{end}" for end in (".py", ".pyi", "_grpc.py")} <= names
    ours = {path.relative_to(ROOT / "client").as_posix() for path in _sources()}
    assert ours == {name for name in names if name.startswith("openclip_triton/")}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def _sources() -> list[Path]:
    folder = ROOT / "client" / "openclip_triton"
    return [path for path in folder.rglob("*") if path.suffix in (".py", ".typed")]


def test_it_says_what_it_needs(about: Message) -> None:
    requirements = [Requirement(text) for text in about.get_all("Requires-Dist", [])]
    assert {r.name for r in requirements if not r.marker} == REQUIRED
    extras = {"cli", "bulk", "s3", "gs", "az", "https", "lance", "ray", "langchain", "llama-index"}
    assert set(about.get_all("Provides-Extra", [])) == extras
    assert about["Requires-Python"] == ">=3.10"
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert about["Version"] == service["version"]


def test_it_shares_no_file_with_the_service(wheel: ZipFile, tmp_path: Path) -> None:
    service = build(ROOT, tmp_path)
    packages = {name.split("/")[0] for name in service.namelist()}
    assert {"gateway", "server", "export"} < packages
    assert set(service.namelist()).isdisjoint(wheel.namelist())


def test_it_runs_on_what_it_requires(site: Path, address: str) -> None:
    program = (
        "import openclip_triton; print(sorted({'grpc', 'numpy', 'google'} & set(sys.modules)));"
        "client = openclip_triton.Client(sys.argv[1]);"
        "print(client.embed_texts(['a text']).tolist())"
    )
    ran = run(site, program, address)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == ["[]", str([vector_of("a text").tolist()])]


def test_the_command_names_the_extra_that_it_needs(site: Path) -> None:
    ran = run(site, "from openclip_triton.__main__ import main; main()", "models")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        "openclip-triton: typer is not installed: pip install 'openclip-triton-client[cli]'\n"
    )
