"""Bulk jobs from and to gs:// and az://: gcsfs and adlfs before servers on this machine."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.client.conftest import environment
from tests.client.fake import Fake, serving
from tests.client.jobs import keys, members, write_tar
from tests.conftest import free_port
from tests.examples.test_examples import python_with

AZURITE = shutil.which("azurite-blob")
# The account that Azurite has, which its documentation names.
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
PUT = """
import sys, fsspec
scheme, folder = sys.argv[1:]
files = fsspec.filesystem(scheme)
files.mkdir("bucket")
files.put(f"{folder}/", "bucket/in/", recursive=True)
"""
GET = """
import sys, fsspec
scheme, name, folder = sys.argv[1:]
files = fsspec.filesystem(scheme)
if files.isfile(f"bucket/{name}"):
    files.get_file(f"bucket/{name}", folder)
else:
    files.get(f"bucket/{name}/", f"{folder}/", recursive=True)
"""


@dataclass(frozen=True, slots=True)
class Store:
    """A bucket below a URL, and the programs that reach it."""

    scheme: str
    python: str
    environment: dict[str, str]

    def run(self, *arguments: object) -> str:
        ran = subprocess.run(
            [self.python, *map(str, arguments)],
            env=self.environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stderr

    def embed(self, given: str, output: str, below: Path | None = None) -> str:
        url = below or f"{self.scheme}://bucket"
        arguments = ("embed-pairs", f"{url}/{given}", "-o", f"{url}/{output}", "--allow-failures")
        return self.run("-m", "openclip_triton", *arguments)


@contextlib.contextmanager
def running(port: int, *program: str) -> Iterator[None]:
    server = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(params=["gs", "az"])
def store(request: pytest.FixtureRequest, address: str) -> Iterator[Store]:
    python, port, scheme = python_with(False), free_port(), str(request.param)
    if scheme == "gs":
        settings = {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            "FSSPEC_GS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for the bucket's type by TLS
        }
        program = [python, "-m", "gcp_storage_emulator", "start", "--in-memory"]
        program += ["--host=127.0.0.1", f"--port={port}"]
    elif AZURITE is None:
        pytest.skip("needs Azurite: npm install --global azurite")
    else:
        settings = {
            "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;"
            f"AccountName=devstoreaccount1;AccountKey={AZURE_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
        }
        program = [AZURITE, "--inMemoryPersistence", "--silent", "--disableTelemetry"]
        program += ["--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    with running(port, *program):
        yield Store(scheme, python, environment(address) | settings)


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def address(fake: Fake) -> Iterator[str]:
    with serving(fake) as address:
        yield address


def written(folder: Path) -> dict[str, bytes]:
    """The vectors and metadata of an output, by name."""
    found = [
        path for half in ("img_emb", "text_emb", "metadata") for path in folder.glob(f"{half}/*")
    ]
    assert len(found) == 9
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_the_same_bytes_as_on_this_machine(store: Store, fake: Fake, tmp_path: Path) -> None:
    tars = tmp_path / "in"
    for number in range(3):
        names = keys(20, number)
        write_tar(tars / f"{number:05}.tar", members(names, bad=names[3:4]))
    store.embed("in", "here", tmp_path)
    store.run("-c", PUT, store.scheme, tars)
    told = store.embed("in", "out")
    assert f"{store.scheme}://bucket/out: 57 pairs of 8 entries" in told
    assert "3 pairs failed" in told
    store.run("-c", GET, store.scheme, "out", tmp_path / "there")
    assert written(tmp_path / "there") == written(tmp_path / "here")

    # A glob names the same objects, and one that changes is noticed.
    fake.seen.clear()
    assert "3 partitions, 3 done before" in store.embed("in/*.tar", "out")
    assert not fake.seen
    write_tar(tars / "00001.tar", members(keys(20, 1)))
    store.run(
        "-c", "import sys, fsspec; fsspec.filesystem(sys.argv[1]).put_file(*sys.argv[2:])",
        store.scheme, tars / "00001.tar", "bucket/in/00001.tar",
    )  # fmt: skip
    assert "3 partitions, 2 done before" in store.embed("in", "out")
    assert set(fake.seen) == {data for name, data in members(keys(20, 1)) if ".json" not in name}
    store.run("-c", GET, store.scheme, "out.failed.txt", tmp_path / "failed.txt")
    failed = (tmp_path / "failed.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in failed] == [keys(20, 0)[3], keys(20, 2)[3]]
    manifest = "out/manifests/img_emb_1.json"
    store.run("-c", GET, store.scheme, manifest, tmp_path / "manifest.json")
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert found["source"] == f"{store.scheme}://bucket/in/00001.tar"
