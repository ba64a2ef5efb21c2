"""``python -m server`` from start to end; nothing may be left, however it ends."""

import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep

import pytest

from server import rundir
from server.__main__ import parse
from server.instances import InstanceWatch
from tests.conftest import interruptible, killed_after
from tests.gateway.proc import children
from tests.gateway.waiting import wait_until
from tests.server import tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds until a hanging test fails


class Launch:
    """A launcher process with a temporary folder of its own, in which its traces show."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.errors = folder / "stderr"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                # A shell's background job, as this test may be one, ignores SIGINT.
                [*interruptible("server"), "--model-repository", folder, *arguments],
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(self.temporary)},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ready(self) -> "Launch":
        assert self.process.stdout
        with killed_after(PATIENCE, self.process):
            line = self.process.stdout.readline()
        assert "Triton is ready" in line, self.errors.read_text()
        return self

    def end(self) -> int:
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode

    @property
    def name(self) -> str:
        (path,) = self.temporary.glob(f"{rundir.PREFIX}*")
        return path.name

    def guard(self) -> int:
        (pid,) = children(self.process.pid)
        return pid

    def tritonserver(self) -> int:
        (pid,) = children(self.guard())
        return pid

    def instance(self, model: str) -> int:
        (pid,) = (
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if self.name in (command := command_line(entry)) and f"\0{model}_0_0\0" in command
        )
        return pid


def traces(name: str, temporary: Path) -> list[str]:
    """Processes, shared memory and folders of a launch."""
    found = [str(path) for path in [*rundir.SHARED_MEMORY.glob(f"{name}*"), *temporary.glob("*")]]
    commands = (command_line(entry) for entry in Path("/proc").glob("[0-9]*"))
    return found + [command for command in commands if name in command]


def command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    tiny.add_demo(tmp_path)
    launches = []

    def start(*arguments: str) -> Launch:
        ports = ["--grpc-port=0", "--metrics-port=0"]
        launches.append(Launch(tmp_path, *ports, *arguments))
        return launches[-1]

    yield start
    for launched in launches:
        if launched.process.poll() is None:
            launched.process.terminate()
            launched.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(launch: Callable[..., Launch], number: signal.Signals) -> None:
    running = launch().ready()
    name = running.name
    assert len(traces(name, running.temporary)) >= 6  # tritonserver, 2 stubs, 2 regions, folder
    running.process.send_signal(number)
    assert running.end() == 0
    assert traces(name, running.temporary) == []
    assert "successfully unloaded 'demo.image'" in running.errors.read_text()


def test_a_second_signal_kills(launch: Callable[..., Launch]) -> None:
    running = launch().ready()
    name = running.name
    os.kill(running.tritonserver(), signal.SIGSTOP)  # it cannot stop in order
    running.process.send_signal(signal.SIGTERM)
    sleep(1.0)  # two that come before the first is handled are one
    assert running.process.poll() is None
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0
    assert traces(name, running.temporary) == []


def test_a_server_that_does_not_stop_is_killed(launch: Callable[..., Launch]) -> None:
    running = launch("--stop-timeout=0.5").ready()
    name = running.name
    os.kill(running.tritonserver(), signal.SIGSTOP)
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0
    assert traces(name, running.temporary) == []


def test_a_signal_while_models_load_stops_it(launch: Callable[..., Launch]) -> None:
    running = launch()
    wait_until(lambda: "loading: demo" in running.errors.read_text())
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0
    assert list(running.temporary.iterdir()) == []


def test_a_killed_tritonserver_is_reported(launch: Callable[..., Launch]) -> None:
    running = launch().ready()
    name = running.name
    os.kill(running.tritonserver(), signal.SIGKILL)
    assert running.end() == 1
    assert "error: tritonserver was killed by SIGKILL" in running.errors.read_text()
    assert traces(name, running.temporary) == []


def test_a_dead_model_instance_ends_the_server(launch: Callable[..., Launch]) -> None:
    running = launch().ready()
    name = running.name
    os.kill(running.instance("demo.text-4"), signal.SIGKILL)
    assert running.end() == 1
    errors = running.errors.read_text()
    assert "error: tritonserver was stopped because the process of a model instance died" in errors
    assert re.search("^model instance .* has died$", errors, re.MULTILINE)
    assert traces(name, running.temporary) == []


def test_a_server_that_ends_while_its_instances_are_looked_at_has_none() -> None:
    with subprocess.Popen(["true"]) as server:
        pass
    assert InstanceWatch(server.pid).dead() is None


def test_a_killed_guard_is_reported(launch: Callable[..., Launch]) -> None:
    running = launch().ready()
    name = running.name
    os.kill(running.guard(), signal.SIGKILL)
    assert running.end() == 1
    assert "lost its guard process, which was killed by SIGKILL" in running.errors.read_text()
    assert traces(name, running.temporary) == []


def test_a_killed_launcher_takes_everything_with_it(launch: Callable[..., Launch]) -> None:
    running = launch().ready()
    name = running.name
    running.process.kill()
    running.end()
    wait_until(lambda: traces(name, running.temporary) == [])


def test_the_next_start_removes_what_a_killed_launch_left(
    launch: Callable[..., Launch], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = launch().ready()
    name = running.name
    monkeypatch.setattr(tempfile, "tempdir", str(running.temporary))
    assert rundir.sweep() == []  # it lives
    pids = [running.process.pid, running.guard(), running.tritonserver()]
    for pid in pids:  # so that none of them can clean up
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    running.end()
    assert any("triton_python_backend_stub" in trace for trace in traces(name, running.temporary))
    wait_until(lambda: rundir.sweep() == [name])
    assert traces(name, running.temporary) == []


def test_a_taken_port_is_told_before_anything_starts(launch: Callable[..., Launch]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = launch(f"--http-port={port}")
        assert refused.end() == 1
    errors = refused.errors.read_text()
    assert errors.startswith(f"error: port {port} on 127.0.0.1 cannot be used")
    assert "change --http-port" in errors
    assert list(refused.temporary.iterdir()) == []


def test_a_model_that_fails_to_load_ends_it(launch: Callable[..., Launch], tmp_path: Path) -> None:
    (tmp_path / "demo.image" / "1" / "model.onnx").write_bytes(b"broken")
    running = launch()
    assert running.end() == 1
    assert "model demo.image failed to load: " in running.errors.read_text()
    assert list(running.temporary.iterdir()) == []


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    assert "--model-repository DIR" in capsys.readouterr().out
