"""Jobs whose partitions are embedded in other processes: the same bytes as in one."""

import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Self

import pytest
import yaml
from openclip_triton import Client
from openclip_triton.bulk.inputs.catalog import Inputs
from openclip_triton.bulk.job import Job, run
from openclip_triton.bulk.manifests import Settings
from openclip_triton.bulk.outputs.layouts import Layout
from openclip_triton.bulk.outputs.output import output_of
from openclip_triton.bulk.samples import IMAGES, KINDS, TEXTS, Kind
from openclip_triton.bulk.shards import Done, Task, embed_alone

from tests.client.conftest import command, environment, start
from tests.client.fake import Fake, vector_of
from tests.client.jobs import Notes, embed, keys, members, write_tar
from tests.conftest import ROOT, free_port, interruptible
from tests.gateway.waiting import wait_until

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None,
    reason="needs Ray, in an environment with the packages of .venv/dev and 'ray[data]>=2.50,<3'",
)
TARS = 6
SAMPLES = 60


class Elsewhere:
    """Embeds partitions as another process would: everything is copied on its way."""

    def __init__(self, address: str, layout: Layout, settings: Settings) -> None:
        self.published = 0
        self._address, self._layout, self._settings = address, layout, settings

    def run(
        self, tasks: Iterable[Task], advance: Callable[[bool], None]
    ) -> Generator[Done, None, None]:
        for task in reversed(list(tasks)):
            sent = (partial(Client, self._address), self._layout, self._settings, task)
            connect, layout, settings, copy = pickle.loads(pickle.dumps(sent))  # noqa: S301 - our own
            heads = embed_alone(connect, layout, settings, copy)
            heads = pickle.loads(pickle.dumps(heads))  # noqa: S301 - our own
            self.published += 1
            yield Done(task, heads)


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    folder = tmp_path / "tars"
    for number in range(TARS):
        names = keys(SAMPLES, number)
        write_tar(folder / f"{number:05}.tar", members(names, bad=names[3::20]))
    return folder


def written(folder: Path) -> dict[str, bytes]:
    """Every file of an output but the lock, by name."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("kinds", [KINDS, (IMAGES,), (TEXTS,)])
def test_another_process_writes_the_same(
    client: Client, address: str, tars: Path, tmp_path: Path, kinds: tuple[Kind, ...]
) -> None:
    here = embed(client, tars, tmp_path / "here", kinds)
    target = output_of(str(tmp_path / "there"), kinds, "float32", None)
    job = Job(Inputs([str(tars)], kinds, size=10), target)
    there = run(job, client, Notes(), partial(Elsewhere, address))
    assert there == here
    assert written(tmp_path / "there") == written(tmp_path / "here")


def test_ray_needs_an_output(address: str, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a text\n")
    ran = command(address, "embed-text", tmp_path / "captions.txt", "--ray", "local")
    assert ran.returncode == 2
    assert "give --output" in ran.stderr


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is there")
def test_without_ray_its_extra_is_named(address: str, tars: Path, tmp_path: Path) -> None:
    ran = command(address, "embed-pairs", tars, "-o", tmp_path / "out", "--ray", "local")
    assert ran.returncode == 1
    assert "ray is not installed: pip install 'openclip-triton-client[ray]'" in ran.stderr
    assert not (tmp_path / "out").exists()


def embeds(process: int) -> bool:
    """Whether a process is one of Ray's that embeds a partition."""
    return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::_embed")


def workers(driver: int) -> list[int]:
    """The processes below a driver in which Ray embeds a partition."""
    parents, busy = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rsplit(")")[-1].split()[1]
            )
            if embeds(int(folder.name)):
                busy.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue

    def below(process: int) -> bool:
        return process == driver or (process in parents and below(parents[process]))

    return [process for process in busy if below(process)]


@needs_ray
@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(
    address: str, fake: Fake, tars: Path, tmp_path: Path
) -> None:
    options = ("embed-pairs", os.path.relpath(tars), "--allow-failures", "-o")
    assert command(address, *options, tmp_path / "here").returncode == 0
    fake.delay_s = 0.02
    fake.seen.clear()
    running = start(address, *options, tmp_path / "there", "--ray", "local")
    deadline = time.monotonic() + 120
    while fake.seen.total() < TARS * SAMPLES // 4 and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(workers(running.pid)[0], signal.SIGKILL)
    _, told = running.communicate(timeout=240)
    assert running.returncode == 0, told
    assert max(fake.seen.values()) > 1  # what the killed worker had begun
    assert written(tmp_path / "there") == written(tmp_path / "here")
    assert f"{TARS * SAMPLES:,} pairs, 6 of 6 partitions" in told
    again = command(address, *options, tmp_path / "there", "--ray", "local")
    assert again.returncode == 0, again.stderr
    assert f"{TARS} partitions, {TARS} done before" in again.stderr


class RayNodes:
    """A Ray cluster on this machine: a head without CPUs, as the RayJob's, and a worker node."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.environment = environment | {
            "RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32,
            "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        self._folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._start(
            "--head", "--node-ip-address=127.0.0.1", f"--port={self.address.rpartition(':')[2]}",
            "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={self._folder}",
        )  # fmt: skip
        self._start(f"--address={self.address}", "--node-ip-address=127.0.0.1", "--num-cpus=2")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for node in self._nodes:
            node.wait()

    def embedding(self) -> list[int]:
        """The processes that embed a partition."""
        return [process for process in self._processes() if embeds(process)]

    def _processes(self) -> list[int]:
        sessions, found = {node.pid for node in self._nodes}, []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):
                if int((folder / "stat").read_text().rsplit(")")[-1].split()[3]) in sessions:
                    found.append(int(folder.name))
        return found

    def _start(self, *options: str) -> None:
        self._nodes.append(
            subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options],
                env=self.environment, start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip


@needs_ray
@pytest.mark.slow
def test_the_command_of_the_rayjob_on_a_cluster_that_loses_a_worker(
    address: str, fake: Fake, tars: Path, tmp_path: Path
) -> None:
    manifest = ROOT / "deploy/kubernetes/bulk-rayjob.yaml"
    job, _ = yaml.safe_load_all(manifest.read_text())
    program, *given = shlex.split(job["spec"]["entrypoint"])
    assert program == "openclip-triton"
    here = {
        "s3://bucket/laion/*.tar": f"{tars}/*.tar", "s3://bucket/embeddings": f"{tmp_path}/there",
        "openclip-gateway.openclip:8081": address,
    }  # fmt: skip
    assert here.keys() <= {*given}
    arguments = [here.get(word, word) for word in given]
    alone = command(
        address, "embed-pairs", f"{tars}/*.tar", "--allow-failures", "-o", tmp_path / "here"
    )
    assert alone.returncode == 0
    fake.delay_s = 0.02
    fake.seen.clear()
    with (
        TemporaryDirectory(prefix="ray", dir="/tmp") as folder,
        RayNodes(Path(folder), environment(address)) as nodes,
    ):
        running = subprocess.Popen(
            [*interruptible("openclip_triton"), *arguments],
            env=nodes.environment, text=True, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_until(
            lambda: fake.seen.total() > TARS * SAMPLES // 4 or running.poll() is not None,
            within=240,
        )
        os.kill(nodes.embedding()[0], signal.SIGKILL)
        _, told = running.communicate(timeout=240)
    assert running.returncode == 0, told
    assert max(fake.seen.values()) > 1  # what the killed worker had begun
    assert written(tmp_path / "there") == written(tmp_path / "here")


@needs_ray
@pytest.mark.slow
def test_a_job_that_fails_on_a_cluster_says_why(address: str, tars: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/img_emb").write_text("in the way")
    ran = command(address, "embed-pairs", tars, "-o", tmp_path / "out", "--ray", "local")
    assert ran.returncode == 1
    assert re.search(r"File exists: .* 0 of 6 partitions are done and kept", ran.stderr)
    assert "Traceback" not in ran.stderr
    lost = command(address, "embed-pairs", tars, "-o", tmp_path / "out", "--ray", "nowhere")
    assert lost.returncode == 2
    assert "no Ray cluster at nowhere: Invalid address format: nowhere.\n" in lost.stderr


@needs_ray
@pytest.mark.slow
def test_ray_data_takes_the_callable(address: str) -> None:
    program = """
import sys, numpy as np, ray
from openclip_triton.bulk.batches import BatchEmbedder
ray.init("local", include_dashboard=False, log_to_driver=False)
rows = [{"id": i, "image": b"bad" if i % 10 == 3 else b"picture %d" % i} for i in range(200)]
rows[7]["image"] = None
found = ray.data.from_items(rows, override_num_blocks=4).map_batches(
    BatchEmbedder, fn_constructor_kwargs={"server": sys.argv[1], "column": "image"},
    batch_size=32, compute=ray.data.ActorPoolStrategy(size=2),
).take_all()
for row in sorted(found, key=lambda row: row["id"]):
    print(row["id"], row["error"] or "ok", row["embedding"].tobytes().hex())
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, address],
        env=environment(address), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 200
    for number, line in enumerate(lines):
        if number % 10 == 3 or number == 7:
            assert re.match(rf"{number} (invalid_image|no_content): ", line)
        else:
            vector = vector_of(b"picture %d" % number).tobytes().hex()
            assert line == f"{number} ok {vector}"


@needs_ray
def test_a_machine_without_the_client_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    cluster = import_module("openclip_triton.bulk.cluster")
    lacks = ray.exceptions.RaySystemError("No module named 'openclip_triton'")

    def get(_: object) -> None:
        raise ray.exceptions.RayTaskError("_embed", "", lacks)

    monkeypatch.setattr(ray, "get", get)
    partition = SimpleNamespace(source="00000.tar")
    with pytest.raises(OSError, match=r"00000\.tar: System error: No module named 'openclip_trit"):
        cluster._heads(None, SimpleNamespace(partition=partition))
