"""A stop ends, whatever signals come; and one that does not is cut short and tells why."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gateway.process.serving import END_S
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from tests.conftest import COMMAND, Outside, free_port, run_gateway
from tests.gateway.proc import alive
from tests.gateway.waiting import inflight, wait_until

pytestmark = pytest.mark.slow

STOPS = int(os.environ.get("STOPS", "5"))
DRAIN_S = 20.0  # which a silent stream does not take; with the rest it bounds the end
SLOW_S = 60.0  # that a busy machine may add
STUCK = {
    "a task": ("asyncio.Event().wait()", "in lifespan\n    await background.end"),
    "the event loop": ("time.sleep(3600)", "in <lambda>"),
}


@pytest.fixture
def busy() -> Iterator[None]:
    """Every core has something else to do."""
    command = [sys.executable, "-c", "while True: pass"]
    with contextlib.ExitStack() as stack:
        for _ in os.sched_getaffinity(0):
            burner = stack.enter_context(subprocess.Popen(command))
            stack.callback(burner.kill)
        yield


@contextlib.contextmanager
def silent_stream(address: str) -> Iterator[None]:
    """A stream on which the client sends nothing."""
    over = threading.Event()

    def nothing_yet() -> Iterator[clip_pb2.EmbedStreamRequest]:
        over.wait(600)
        yield from ()

    with grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        stream = clip_pb2_grpc.ClipServiceStub(channel).EmbedStream(nothing_yet())
        yield
        over.set()
        stream.cancel()


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("seed", range(STOPS))
def test_a_stop_among_signals_on_a_busy_machine(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    log = tmp_path / "log"
    outside = Outside(log=log, command=COMMAND)
    triton_address = f"127.0.0.1:{free_port()}"  # nobody there: a stop does not need it
    with (
        run_gateway(outside, triton_address=triton_address, drain_s=DRAIN_S) as client,
        silent_stream(client.grpc_address),
    ):
        process = client.process
        wait_until(lambda: inflight(client, "grpc"))
        begun = time.monotonic()
        stops = [begun + chance.uniform(0, 0.5) for _ in range(chance.choice([1, 2]))]
        while alive(process) and time.monotonic() < begun + DRAIN_S + END_S + SLOW_S:
            os.kill(process, signal.SIGHUP)
            while stops and time.monotonic() > min(stops):
                stops.remove(min(stops))
                os.kill(process, signal.SIGTERM)
            time.sleep(0.001)
        assert not alive(process)
        print(f"ended after {time.monotonic() - begun:.2f} s")
    # That it ended with 0, so within its own limit, was seen by `run_gateway`.
    assert "cut short" not in log.read_text()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("stands", "told"), STUCK.values(), ids=STUCK)
def test_an_end_that_does_not_come_is_cut_short(
    stands: str, told: str, workers: int, tmp_path: Path
) -> None:
    stuck = (
        "import asyncio, runpy, sys, time; from gateway import build; "
        "from gateway.process import serving; "
        f"serving.END_S = 1; build.BackgroundTasks.end = lambda *_: {stands}; "
    )
    run = "runpy.run_module({!r}, run_name='__main__')".format
    one = (sys.executable, "-c", stuck + run("gateway.process.worker"))
    supervised = f"from gateway.process import workers; workers.COMMAND = {one!r}; "
    all_ = f"{stuck}{supervised}{run('gateway')}"
    outside = Outside(log=tmp_path / "log", command=(sys.executable, "-c", all_), code=1)
    triton_address = f"127.0.0.1:{free_port()}"
    with run_gateway(outside, triton_address=triton_address, drain_s=0, workers=workers):
        pass
    log = (tmp_path / "log").read_text()
    assert log.count("not ended 1 seconds after it was asked to") >= 1
    assert told in log
    assert "killed" not in log
