"""Several gateway processes: shared ports, metrics that add up, a drain, and a replacement."""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from gateway.rpc.openclip.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory

WITHIN_S = 60.0
COUNT = 2
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@pytest.fixture
def gateway(triton: TritonServer, start_gateway: GatewayFactory) -> Iterator[GatewayClient]:
    with start_gateway(triton_address=triton.addresses.grpc, workers=COUNT) as client:
        eventually(lambda: len(workers(client)) == COUNT)
        yield client


def test_both_ports_are_shared_and_metrics_add_up(gateway: GatewayClient) -> None:
    port = int(gateway.grpc_address.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(httpx.Client(base_url=gateway.base_url, timeout=60))
            for _ in range(16)
        ]
        with ThreadPoolExecutor(16) as threads:
            statuses = list(threads.map(lambda client: embed(client, "rest"), clients * 10))
        channels = [
            stack.enter_context(grpc.insecure_channel(gateway.grpc_address, OWN_CONNECTION))
            for _ in range(16)
        ]
        for channel in channels:
            item = clip_pb2.Item(text="over gRPC")
            clip_pb2_grpc.ClipServiceStub(channel).Embed(clip_pb2.EmbedRequest(input=[item]))
        assert statuses == [200] * 160
        for shared in (gateway.base_url.port or 0, port):
            held = [connections(pid, shared) for pid in workers(gateway)]
            assert sum(held) >= 16
            assert all(held), held
    for _ in range(10):  # whichever process answers
        assert counted(gateway, protocol="rest", operation="/v1/embeddings") == 160
        assert counted(gateway, protocol="grpc", operation="Embed") == 16


def test_a_request_that_is_under_way_is_answered_before_the_end(gateway: GatewayClient) -> None:
    body = b'{"input": "a photo of a red circle."}'
    address = ("127.0.0.1", gateway.base_url.port or 0)
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        connection.sendall(body[:10])
        eventually(lambda: counted(gateway, "inflight", protocol="rest") == 2)  # and the scrape
        os.kill(master(gateway), signal.SIGTERM)
        eventually(lambda: not reachable(address))
        connection.sendall(body[10:])
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200")
    # That the process ends with 0 is seen by the fixture.


def test_a_killed_worker_is_replaced(gateway: GatewayClient) -> None:
    before = workers(gateway)
    assert embed(gateway, "before") == 200
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: before[0] not in workers(gateway) and len(workers(gateway)) == COUNT)
    assert before[1] in workers(gateway)
    eventually(lambda: all(connected(gateway) for _ in range(10)))
    for number in range(20):
        with httpx.Client(base_url=gateway.base_url, timeout=60) as client:
            assert embed(client, f"after {number}") == 200
    # What the killed one had counted is kept, and what it had in flight is not.
    assert counted(gateway, protocol="rest", operation="/v1/embeddings") == 21
    assert counted(gateway, "inflight", protocol="rest") == 1  # the scrape itself


def test_without_their_parent_workers_stop(
    triton: TritonServer, start_gateway: GatewayFactory
) -> None:
    seen: list[int] = []
    with (
        contextlib.suppress(AssertionError),  # it does not end with 0
        start_gateway(triton_address=triton.addresses.grpc, workers=COUNT) as client,
    ):
        eventually(lambda: len(workers(client)) == COUNT)
        seen = workers(client)
        os.kill(master(client), signal.SIGKILL)
    assert len(seen) == COUNT
    eventually(lambda: not any(alive(pid) for pid in seen))


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


def counted(client: httpx.Client, name: str = "requests_total", **labels: str) -> float:
    total = 0.0
    for found, value in re.findall(
        rf"^openclip_{name}{{(.*)}} (\S+)$", client.get("/metrics").text, re.MULTILINE
    ):
        if labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', found)).items():
            total += float(value)
    return total


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        threading.Event().wait(0.05)


def master(client: httpx.Client) -> int:
    wanted = f"GATEWAY_HTTP_PORT={client.base_url.port}".encode()
    [found] = [
        pid for pid in children(os.getpid())
        if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]  # fmt: skip
    return found


def workers(client: httpx.Client) -> list[int]:
    """The processes below the first that serve, and not those that Python keeps for itself."""
    return [
        pid for pid in children(master(client))
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]  # fmt: skip


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, above = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(above) == parent and state != "Z":
                found.append(int(entry.name))
    return sorted(found)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def connections(pid: int, port: int) -> int:
    """How many established connections to the port a process holds."""
    ours = Counter[str]()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "01":
                ours[f"socket:[{fields[9]}]"] += 1
    held = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held += str(link.readlink()) in ours
    return held
