"""Several gateway processes: shared ports, metrics that add up, a drain, and a replacement."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from gateway.process.workers import STEADY_S, _Worker
from gateway.telemetry.metrics import FOLDER
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import (
    COMMAND,
    REPOSITORY,
    ROOT,
    GatewayClient,
    GatewayFactory,
    Outside,
    free_ports,
)
from tests.gateway.proc import ESTABLISHED, LISTENING, alive, catches, children, sockets
from tests.gateway.scraping import scrape, value
from tests.gateway.waiting import inflight, unfinished_request, wait_until

pytestmark = pytest.mark.slow

COUNT = 2
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@pytest.fixture
def gateway(triton: TritonServer, start_gateway: GatewayFactory) -> Iterator[GatewayClient]:
    with start_gateway(triton_address=triton.addresses.grpc, workers=COUNT) as client:
        wait_until(lambda: all_hold(client, rpc_port(client), LISTENING), "a worker did not start")
        yield client


def test_both_ports_are_shared_and_metrics_add_up(gateway: GatewayClient) -> None:
    counts = Counter[str]()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(16) as threads:

        def ask() -> bool:
            clients = [
                stack.enter_context(httpx.Client(base_url=gateway.base_url, timeout=60))
                for _ in range(16)
            ]
            statuses = list(threads.map(lambda client: embed(client, "rest"), clients * 4))
            assert statuses == [200] * 64
            counts["rest"] += 64
            return all_hold(gateway, gateway.base_url.port or 0)

        def call() -> bool:
            channel = grpc.insecure_channel(gateway.grpc_address, OWN_CONNECTION)
            stack.enter_context(channel)
            item = clip_pb2.Item(text="over gRPC")
            clip_pb2_grpc.ClipServiceStub(channel).Embed(clip_pb2.EmbedRequest(input=[item]))
            counts["grpc"] += 1
            return all_hold(gateway, rpc_port(gateway))

        # Whoever is awake first takes a connection, so it is chance who gets which.
        wait_until(ask, "one process took every connection")
        wait_until(call, "one process took every channel")
    asked = {"protocol": "rest", "operation": "/v1/embeddings"}
    called = {"protocol": "grpc", "operation": "Embed"}

    def counted_both() -> tuple[float, float]:
        return counted(gateway, **asked), counted(gateway, **called)

    # Calls are counted after their clients have their answers.
    wait_until(lambda: counted_both() == (counts["rest"], counts["grpc"]))
    for _ in range(10):  # whichever process answers
        assert counted_both() == (counts["rest"], counts["grpc"])


def test_a_request_that_is_under_way_is_answered_before_the_end(gateway: GatewayClient) -> None:
    body = b'{"input": "a photo of a red circle."}'
    address = ("127.0.0.1", gateway.base_url.port or 0)
    with unfinished_request(gateway, body) as connection:
        os.kill(gateway.process, signal.SIGTERM)
        wait_until(lambda: not reachable(address))
        connection.sendall(body[1:])
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200")
    # That the process ends with 0 is seen by the fixture.


def test_a_killed_worker_is_replaced(gateway: GatewayClient) -> None:
    before = workers(gateway)
    asked = {"protocol": "rest", "operation": "/v1/embeddings"}
    assert embed(gateway, "before") == 200
    wait_until(lambda: counted(gateway, **asked) == 1)
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: before[0] not in workers(gateway) and len(workers(gateway)) == COUNT)
    assert before[1] in workers(gateway)
    wait_until(lambda: all(connected(gateway) for _ in range(10)))
    for number in range(20):
        with httpx.Client(base_url=gateway.base_url, timeout=60) as client:
            assert embed(client, f"after {number}") == 200
    # What the killed one had counted is kept, and what it had in flight is not.
    wait_until(lambda: counted(gateway, **asked) == 21)
    wait_until(lambda: inflight(gateway) == 0)


def started_anew(client: GatewayClient) -> int:
    """The process that takes the place of one that was killed, as soon as there is one."""
    before = workers(client)
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: set(workers(client)) - set(before), "none took its place")
    [process] = set(workers(client)) - set(before)
    return process


def test_a_hang_up_does_not_end_a_worker_that_only_starts(
    gateway: GatewayClient,
) -> None:
    process = started_anew(gateway)
    os.kill(gateway.process, signal.SIGHUP)
    wait_until(lambda: all_hold(gateway, rpc_port(gateway), LISTENING), "it did not start")
    assert process in workers(gateway)


@pytest.mark.parametrize("heeds", [False, True])
def test_a_stop_while_a_worker_starts(gateway: GatewayClient, heeds: bool) -> None:
    process = started_anew(gateway)
    if heeds:
        wait_until(lambda: catches(process, signal.SIGTERM))
    # That the gateway then ends, and with 0, is seen by the fixture.


def test_a_worker_that_hangs_does_not_hold_up_the_end(
    triton: TritonServer, start_gateway: GatewayFactory
) -> None:
    outside = Outside(command=with_constants(END_S=0, KILL_S=1), code=1)
    address = triton.addresses.grpc
    with start_gateway(outside, triton_address=address, workers=COUNT, drain_s=0) as client:
        wait_until(lambda: all_hold(client, rpc_port(client), LISTENING))
        seen = workers(client)
        os.kill(seen[0], signal.SIGSTOP)
    assert not any(alive(pid) for pid in seen)


def test_a_failed_start_is_tried_again(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    outside = Outside(log=tmp_path / "log")
    address = triton.addresses.grpc
    with start_gateway(outside, triton_address=address, workers=COUNT) as client:
        wait_until(lambda: all_hold(client, rpc_port(client), LISTENING))
        most = resource.prlimit(client.process, resource.RLIMIT_NOFILE)
        resource.prlimit(client.process, resource.RLIMIT_NOFILE, (3, most[1]))  # no more files
        os.kill(workers(client)[0], signal.SIGKILL)
        wait_until(lambda: "cannot be started" in (tmp_path / "log").read_text())
        assert embed(client, "by the other") == 200
        resource.prlimit(client.process, resource.RLIMIT_NOFILE, most)
        wait_until(lambda: all_hold(client, rpc_port(client), LISTENING))


def test_without_their_folder_workers_start_and_metrics_go_on(gateway: GatewayClient) -> None:
    environment = Path(f"/proc/{workers(gateway)[0]}/environ").read_bytes().split(b"\0")
    [folder] = [each[len(FOLDER) + 1 :] for each in environment if each.startswith(FOLDER.encode())]
    shutil.rmtree(folder)
    assert gateway.get("/metrics").status_code == 200
    process = started_anew(gateway)
    wait_until(lambda: all_hold(gateway, rpc_port(gateway), LISTENING))
    assert process in workers(gateway)


def test_workers_that_cannot_start_end_the_gateway() -> None:
    command = with_constants(COMMAND=(sys.executable, "-c", "raise SystemExit(3)"))
    port, grpc_port = free_ports(2)
    settings = {"WORKERS": 2, "MODEL_REPOSITORY": REPOSITORY, "HTTP_PORT": port}
    environment = {f"GATEWAY_{name}": str(value) for name, value in settings.items()}
    environment |= {"GATEWAY_GRPC_PORT": str(grpc_port)}
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | environment, timeout=60, check=False)
    assert ran.returncode == 1


def test_the_pause_before_a_restart_grows_while_workers_die_young(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended.wait(60)
    worker = _Worker(ended)
    assert worker.failed_first_start
    pauses = []
    for _ in range(7):
        worker.died()
        assert worker.restart_at is not None
        pauses.append(worker.restart_at - now)
        now = worker.restart_at
        worker.restarted(ended)
        assert not worker.failed_first_start
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    now += STEADY_S
    worker.died()
    assert worker.restart_at == now


NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True, timeout=60).returncode
    != 0,
    reason="process namespaces cannot be made here",
)
def test_workers_serve_below_the_first_process_of_a_container(
    triton: TritonServer, start_gateway: GatewayFactory
) -> None:
    outside = Outside(command=(*NAMESPACE, *COMMAND))
    address = triton.addresses.grpc
    with start_gateway(outside, triton_address=address, workers=COUNT) as client:
        assert embed(client, "in a container") == 200
        [first] = workers(client)  # that is what the namespace's maker has below it
        os.kill(first, signal.SIGTERM)
        wait_until(lambda: not alive(client.process))


def with_constants(**values: object) -> list[str]:
    """How to run a gateway whose `gateway.process.workers` has other constants."""
    given = "".join(f"workers.{name} = {value!r}; " for name, value in values.items())
    run = "runpy.run_module('gateway', run_name='__main__')"
    return [
        sys.executable,
        "-c",
        f"import runpy; from gateway.process import workers; {given}{run}",
    ]


def test_without_their_parent_workers_stop(
    triton: TritonServer, start_gateway: GatewayFactory
) -> None:
    outside = Outside(code=-signal.SIGKILL)
    with start_gateway(outside, triton_address=triton.addresses.grpc, workers=COUNT) as client:
        wait_until(lambda: len(workers(client)) == COUNT)
        seen = workers(client)
        os.kill(client.process, signal.SIGKILL)
    assert len(seen) == COUNT
    wait_until(lambda: not any(alive(pid) for pid in seen))


def embed(client: httpx.Client, text: str) -> int:
    return client.post("/v1/embeddings", json={"input": text}).status_code


def connected(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{client.base_url}/livez", timeout=60).is_success
    return False


def reachable(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=1):
            return True
    except OSError:
        return False


def counted(client: httpx.Client, **labels: str) -> float:
    """Requests with these labels."""
    return value(scrape(client), "requests_total", **labels)


def workers(client: GatewayClient) -> list[int]:
    """The processes below the first, which are those that serve."""
    return children(client.process)


def rpc_port(client: GatewayClient) -> int:
    return int(client.grpc_address.rpartition(":")[2])


def all_hold(client: GatewayClient, port: int, state: str = ESTABLISHED) -> bool:
    """Whether every worker holds a socket at the port, in this state."""
    with contextlib.suppress(OSError):  # one has just ended
        held = [(port, state) in sockets(pid) for pid in workers(client)]
        return len(held) == COUNT and all(held)
    return False
