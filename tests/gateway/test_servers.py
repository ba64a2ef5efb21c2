"""Several Tritons: work is shared, the lost are passed over and taken back, liars never used."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import DeadlineExceeded, GatewayError, Unavailable
from gateway.inference.client import Call, Encoder
from gateway.inference.control import ModelControl
from gateway.inference.encoders import encoders_of, image_encoder
from gateway.inference.grpc_client import GrpcInferClient
from gateway.inference.secret import NO_SECRET, Secret
from gateway.inference.server import Server
from gateway.inference.servers import Servers
from gateway.models.manifest import Manifest, read_repository
from tests.conftest import REPOSITORY, free_port
from tests.gateway.tritons import SteeredTriton, copied, steered, use, write_impostor
from tests.gateway.waiting import until

pytestmark = pytest.mark.slow

OPENS_S = 20.0  # of a breaker
BACK_S = 2.0  # from the return of a server to its use
SLACK_S = 10.0  # for its model to be verified, on a machine full of other tests
GREETING_S = 0.3


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_repository(REPOSITORY)["demo"]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[SteeredTriton, SteeredTriton]]:
    with steered() as one, steered() as other:
        yield one, other


@asynccontextmanager
async def client_of(*addresses: str, secret: Secret = NO_SECRET) -> AsyncIterator[GrpcInferClient]:
    client = GrpcInferClient(addresses, ModelControl(REPOSITORY, secret))
    try:
        await client._servers.available()  # resolved
        yield client
    finally:
        await client.close()


async def ask(client: GrpcInferClient, manifest: Manifest, within: float = 20) -> bool:
    """Whether the golden picture gets its golden vector."""
    await use(client, image_encoder(manifest), within)
    return True


async def ask_all(client: GrpcInferClient, manifest: Manifest) -> None:
    """Ask until every server has given the golden vector."""
    encoder = image_encoder(manifest)
    async with asyncio.timeout(60):
        while not all(encoder in each.verified for each in client._servers._servers.values()):
            await asyncio.gather(*(ask(client, manifest) for _ in range(20)))


def server_of(client: GrpcInferClient, triton: SteeredTriton) -> Server:
    return client._servers._servers[triton.address]


async def test_work_is_shared_out_and_the_lost_is_passed_over_and_taken_back(
    pair: tuple[SteeredTriton, SteeredTriton], manifest: Manifest
) -> None:
    one, other = pair
    async with client_of(one.address, other.address) as client:
        assert client.servers() == 2
        await ask_all(client, manifest)
        first, second = server_of(client, one), server_of(client, other)
        with first.working():
            assert client._servers.pick() is second
        with second.working():
            assert client._servers.pick() is first

        one.kill()
        for _ in range(30):  # each finds the other, be it after a call to the dead one
            assert await ask(client, manifest)
        assert not first.verified
        await until(lambda: first.breaker_open, OPENS_S)
        client.check()  # one of two is enough
        one.start()
        await until(lambda: not first.breaker_open, BACK_S + SLACK_S)
        with second.working():
            assert await ask(client, manifest)
        assert image_encoder(manifest) in first.verified


async def test_a_hung_one_is_left_alone_and_its_calls_end_in_time(
    pair: tuple[SteeredTriton, SteeredTriton], manifest: Manifest
) -> None:
    one, other = pair
    async with client_of(one.address, other.address) as client:
        await ask_all(client, manifest)
        hung = server_of(client, one)
        one.freeze()
        try:
            with server_of(client, other).working(), pytest.raises(DeadlineExceeded):
                await ask(client, manifest, within=0.2)
            with hung.working():
                await until(lambda: hung.breaker_open, OPENS_S)
            for _ in range(20):
                assert await ask(client, manifest)
        finally:
            one.thaw()
        await until(lambda: not hung.breaker_open, BACK_S + SLACK_S)


@asynccontextmanager
async def slow_to_greet(address: str) -> AsyncIterator[str]:
    """Where connections to a server are taken at once and go on after a while."""
    joined: set[asyncio.Task[None]] = set()

    async def pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(GREETING_S)
        host, port = address.split(":")
        other_reader, other_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(pumped(reader, other_writer), pumped(other_reader, writer))
        finally:
            for each in (writer, other_writer):
                each.close()
                with suppress(ConnectionError):
                    await each.wait_closed()

    def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        joined.add(asyncio.create_task(join(reader, writer)))

    async with await asyncio.start_server(taken, "127.0.0.1", 0) as relay:
        yield f"127.0.0.1:{relay.sockets[0].getsockname()[1]}"
        for task in joined:  # gRPC may keep the connection of a closed channel
            task.cancel()
        await asyncio.gather(*joined, return_exceptions=True)


async def test_one_that_is_slow_to_greet_is_waited_for(
    pair: tuple[SteeredTriton, SteeredTriton], manifest: Manifest
) -> None:
    async with slow_to_greet(pair[1].address) as address, client_of(address) as client:
        assert await ask(client, manifest)


async def test_one_that_is_let_go_in_the_middle_is_no_fault_of_ours(
    pair: tuple[SteeredTriton, SteeredTriton], manifest: Manifest
) -> None:
    """Its name stands for it no more, and its line is closed after it was picked."""
    one, other = pair
    async with client_of(one.address) as client:
        await server_of(client, one).close()
        for wanted in (client.infer(golden_call(manifest), 5), client.verify(*checked(manifest))):
            with pytest.raises(Unavailable, match="was closed"):
                await wanted
        with pytest.raises(Unavailable, match="no address names the server"):
            await client.load(*checked(manifest))
    async with client_of(one.address, other.address) as client:
        await ask_all(client, manifest)
        with server_of(client, other).working():
            await server_of(client, one).close()
            assert await ask(client, manifest)


def golden_call(manifest: Manifest) -> Call:
    encoder = image_encoder(manifest)
    return Call(encoder, encoder.golden().batch)


def checked(manifest: Manifest) -> tuple[Encoder, float]:
    return image_encoder(manifest), 5.0


async def test_while_none_answers_everyone_is_told_at_once(manifest: Manifest) -> None:
    told: list[tuple[int, int]] = []
    client = GrpcInferClient(
        [f"127.0.0.1:{free_port()}"],
        ModelControl(REPOSITORY, NO_SECRET),
        lambda answering, broken: told.append((answering, broken)),
    )
    try:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await ask(client, manifest)
        client.check()  # one failure says little
        await until(lambda: client._servers.broken)
        with pytest.raises(Unavailable, match="does not answer") as refused:
            client.check()
        assert refused.value.retry_after_s
        with pytest.raises(Unavailable, match="does not answer"):
            await ask(client, manifest)
        with pytest.raises(Unavailable, match="does not answer"):
            await client.verify(image_encoder(manifest), 5)
        assert told[-2:] == [(1, 0), (0, 1)]
    finally:
        await client.close()


async def test_another_model_under_the_name_is_never_used(
    pair: tuple[SteeredTriton, SteeredTriton], manifest: Manifest, tmp_path: Path
) -> None:
    honest = pair[1]
    with steered(write_impostor(tmp_path)) as impostor:
        async with client_of(impostor.address) as client:
            for _ in range(3):
                with pytest.raises(Unavailable, match="golden vector"):
                    await ask(client, manifest)
            for encoder in encoders_of(manifest):
                with pytest.raises(Unavailable, match="golden vector"):
                    await client.verify(encoder, 10)
        async with client_of(impostor.address, honest.address) as client:
            with server_of(client, honest).working():
                for _ in range(10):
                    assert await ask(client, manifest)
            assert not await client.verify(image_encoder(manifest), 10)
            # As if it had been right until a moment ago: what it has encoded is to be doubted.
            server_of(client, impostor).verified.add(image_encoder(manifest))
            assert await client.verify(image_encoder(manifest), 10)
            assert not await client.verify(image_encoder(manifest), 10)


async def test_a_server_that_comes_back_with_another_model(
    manifest: Manifest, tmp_path: Path
) -> None:
    impostor = write_impostor(tmp_path)
    with steered() as triton:
        async with client_of(triton.address) as client:
            assert await ask(client, manifest)
            triton.kill()
            triton.repository = impostor
            triton.start()
            refused = 0
            async with asyncio.timeout(20):
                while refused < 5:
                    try:
                        await ask(client, manifest)
                        raise AssertionError("the wrong model was used")
                    except GatewayError as error:
                        refused += "golden vector" in error.message
                        await asyncio.sleep(0.05)
            triton.kill()
            triton.repository = REPOSITORY
            triton.start()
            async with asyncio.timeout(BACK_S + SLACK_S):
                while True:
                    try:
                        assert await ask(client, manifest)
                        break
                    except Unavailable:
                        await asyncio.sleep(0.05)


async def test_golden_vectors_are_sent_once_to_an_encoder_that_nobody_uses(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, impostor = copied(tmp_path), write_impostor(tmp_path)
    encoder, within = checked(manifest)
    graph = Path(encoder.model) / "1" / "model.onnx"
    with steered(repository) as triton:

        async def ran(rows: int) -> None:
            await until(lambda: triton.encoded(encoder.model) == rows)  # counted after the answer

        async with client_of(triton.address, secret=triton.secret(tmp_path)) as client:
            for _ in range(3):
                assert not await client.verify(encoder, within)
                await ran(1)
            assert await ask(client, manifest)
            await ran(2)
            for _ in range(3):
                assert not await client.verify(encoder, within)
                await ran(3)
            monkeypatch.setattr("gateway.inference.grpc_client.UNUSED_S", 0.0)
            triton.control("unload", encoder.model)
            with pytest.raises(Unavailable, match="does not serve"):
                await client.verify(encoder, within)
            triton.control("load", encoder.model)
            for number in range(1, 4):
                assert not await client.verify(encoder, within)
                await ran(number)
            monkeypatch.undo()
            assert not await client.verify(encoder, within)
            await ran(4)
            # Loaded anew, with other weights, and nobody has called it since.
            (repository / graph).write_bytes((impostor / graph).read_bytes())
            triton.control("load", encoder.model)
            with pytest.raises(Unavailable, match="golden vector"):
                await client.verify(encoder, within)
            await ran(1)
        async with client_of(triton.address) as client:  # Triton does not tell this one
            for number in range(2, 5):
                with pytest.raises(Unavailable, match="golden vector"):
                    await client.verify(encoder, within)
                await ran(number)


async def test_a_name_with_several_addresses(
    pair: tuple[SteeredTriton, SteeredTriton], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {each.address for each in pair}
    failing = False
    monkeypatch.setattr("gateway.inference.servers.RESOLVE_S", 0.02)

    async def lookup(address: str) -> set[str]:
        assert address == "tritons.example:8001"
        if failing:
            raise OSError("the name server is away")
        return set(named)

    servers = Servers(["tritons.example:8001"], lookup=lookup)
    try:
        assert {server.address for server in await servers.available()} == named
        gone = named.pop()
        await until(lambda: len(servers) == 1)
        assert [server.address for server in await servers.available()] == list(named)
        failing = True  # what is known stays
        await asyncio.sleep(0.1)
        assert len(servers) == 1
        failing = False
        named.add(gone)
        await until(lambda: len(servers) == 2)
    finally:
        await servers.close()


def test_golden_inputs_are_those_of_their_encoders(manifest: Manifest) -> None:
    for encoder in encoders_of(manifest):
        golden = encoder.golden()
        assert golden.batch.shape[0] == 1
        assert golden.vector.shape == (encoder.embedding_size,)
        assert np.linalg.norm(golden.vector) == pytest.approx(1, abs=1e-4)
