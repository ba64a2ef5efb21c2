"""What waits for an encoder: joined into few calls, the urgent first, and dropped when unwanted."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    InferenceFailed,
    Overloaded,
    Unavailable,
)
from gateway.inference.batching import Batcher
from gateway.inference.capacity import MAX_CALL_BYTES, MAX_CALL_TOKENS
from gateway.inference.client import Call, Encoder, FakeInferClient, Golden
from gateway.inference.schedule import BULK_CALLS
from gateway.models.values import Deadline, Timings, Vectors
from tests.gateway.fakes import Unchecked


def encoder(name: str = "text", max_batch: int = 8, queue: str = "") -> Encoder:
    def golden() -> Golden:
        raise AssertionError("a batcher verifies nothing")

    return Encoder(name, 1, "in", "out", 2, max_batch, queue or name, golden)


class Held(FakeInferClient):
    """Answers each row with its own value, once it is let go."""

    def __init__(self) -> None:
        super().__init__(echo)
        self.gate = asyncio.Semaphore(0)
        self.away = False

    def check(self) -> None:
        if self.away:
            raise Unavailable("nobody there", retry_after_s=3)

    async def infer(self, call: Call, within: float) -> Vectors:
        self.calls.append(call)
        await self.gate.acquire()
        return echo(call)

    def rows(self) -> list[list[int]]:
        return [call.batch[:, 0].tolist() for call in self.calls]


def echo(call: Call) -> Vectors:
    first = call.batch[:, 0].astype(np.float32)
    return np.stack([first, first], axis=1)


def start(
    batcher: Batcher,
    *values: int,
    bulk: bool = False,
    on: Encoder | None = None,
    width: int = 4,
    client: str = "",
) -> "asyncio.Task[Vectors]":
    rows = [np.full(width, value, dtype=np.int32) for value in values]
    timings = Timings(client=client)
    work = batcher.run(on or encoder(), rows, Deadline.after(60), timings, bulk=bulk)
    return asyncio.create_task(work)


async def settled(condition: Callable[[], Any] = lambda: True) -> None:
    async with asyncio.timeout(10):
        for _ in range(5):
            await asyncio.sleep(0)
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the batcher
            await asyncio.sleep(0)


async def called(client: Held, count: int) -> None:
    await settled(lambda: len(client.calls) == count)


async def test_what_comes_meanwhile_goes_together() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    tasks = [start(batcher, number) for number in range(5)]
    await settled()
    assert client.rows() == [[0]]
    client.gate.release()
    await settled(lambda: len(client.calls) == 2)
    assert client.rows() == [[0], [1, 2, 3, 4]]
    client.gate.release()
    answers = await asyncio.gather(*tasks)
    assert [answer[0, 0] for answer in answers] == [0, 1, 2, 3, 4]


async def test_the_next_call_leaves_before_answers_are_handled() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    left: list[int] = []  # calls that had left when each answer came

    async def ask(value: int) -> None:
        rows = [np.full(4, value, dtype=np.int32)]
        await batcher.run(encoder(), rows, Deadline.after(60), Timings(), bulk=False)
        left.append(len(client.calls))

    asking = asyncio.gather(ask(0), ask(1))
    await called(client, 1)
    client.gate.release()
    client.gate.release()
    await asking
    assert left == [2, 2]


async def test_encoders_that_share_a_queue_take_turns() -> None:
    """They share the calls under way, and the one goes that has waited longest."""
    client = Held()
    batcher = Batcher(client, calls=1)
    short, long = encoder("text-16", queue="text"), encoder("text-77", queue="text")
    tasks = [start(batcher, number, on=on) for number, on in enumerate([short, long, short, long])]
    tasks.append(start(batcher, 9, on=encoder("image")))
    await called(client, 2)
    client.gate.release()
    client.gate.release()
    for count in (3, 4):
        await called(client, count)
        client.gate.release()
    answers = await asyncio.gather(*tasks)
    assert [answer[0, 0] for answer in answers] == [0, 1, 2, 3, 9]
    assert [call.encoder.model for call in client.calls] == [
        "text-16",
        "image",
        "text-77",
        "text-16",
    ]
    assert client.rows()[2:] == [[1, 3], [2]]


async def test_the_urgent_of_any_tower_goes_before_the_bulk() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    short, long = encoder("text-16", queue="text"), encoder("text-77", queue="text")
    tasks = [start(batcher, 0, on=short), start(batcher, 1, on=short, bulk=True)]
    tasks.append(start(batcher, 2, on=long))
    for _ in tasks:
        client.gate.release()
    await asyncio.gather(*tasks)
    assert client.rows() == [[0], [2], [1]]


async def test_the_urgent_goes_before_the_bulk() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    tasks = [start(batcher, *range(100, 140), bulk=True)]
    await settled()
    tasks += [start(batcher, number) for number in range(3)]
    await settled()
    assert client.rows() == [list(range(100, 108))]
    client.gate.release()
    await settled(lambda: len(client.calls) == 2)
    assert client.rows()[1] == [0, 1, 2, *range(108, 113)]  # the bulk fills the call
    for _ in range(10):
        client.gate.release()
    bulk, *urgent = await asyncio.gather(*tasks)
    assert bulk[:, 0].tolist() == list(range(100, 140))
    assert [answer[0, 0] for answer in urgent] == [0, 1, 2]


async def test_clients_take_turns() -> None:
    """Who comes last and wants little is in the next call, wherever the others are."""
    client = Held()
    batcher = Batcher(client, calls=1)
    tasks = [start(batcher, 0, client="a")]
    await called(client, 1)
    tasks += [start(batcher, number, client="a") for number in range(100, 120)]
    tasks += [start(batcher, number, client="b") for number in range(200, 220)]
    tasks += [start(batcher, 300, client="c")]
    for _ in range(7):
        client.gate.release()
    await asyncio.gather(*tasks)
    first, second, *_ = client.rows()[1:]
    assert sorted(first) == [100, 101, 102, 200, 201, 202, 203, 300]
    assert sorted(second) == [*range(103, 107), *range(204, 208)]
    assert [len(rows) for rows in client.rows()] == [1, 8, 8, 8, 8, 8, 1]


async def test_turns_are_counted_in_rows() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    tasks = [start(batcher, 0, client="a")]
    await called(client, 1)
    tasks += [start(batcher, *range(100, 140), bulk=True, client="a")]
    tasks += [start(batcher, *range(n, n + 2), bulk=True, client="b") for n in range(200, 240, 2)]
    for _ in range(11):
        client.gate.release()
    await asyncio.gather(*tasks)
    of_a = [sum(row < 200 for row in rows) for rows in client.rows()[1:]]
    assert of_a == [4] * 10


async def test_clients_of_different_encoders_take_turns() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    short, long = encoder("text-16", queue="text"), encoder("text-77", queue="text")
    tasks = [start(batcher, *range(40), on=short, client="a")]
    await called(client, 1)
    tasks += [start(batcher, 100, on=long, client="b")]
    for _ in range(6):
        client.gate.release()
    await asyncio.gather(*tasks)
    assert [call.encoder.model for call in client.calls].index("text-77") == 1


async def test_a_clients_bulk_waits_for_others_urgent_but_not_for_ever() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    urgent = [start(batcher, *range(8), client="a") for _ in range(10)]
    bulk = start(batcher, *range(100, 108), bulk=True, client="b")
    for _ in range(11):
        client.gate.release()
    await asyncio.gather(bulk, *urgent)
    began = [any(row >= 100 for row in rows) for rows in client.rows()].index(True)
    assert 1 + BULK_CALLS <= began <= 2 + BULK_CALLS


async def test_bulk_fills_what_the_urgent_leaves() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    tasks = [
        start(batcher, 0),
        start(batcher, 50, 51, bulk=True),
        start(batcher, 1),
        start(batcher, 2),
    ]
    await settled()
    client.gate.release()
    await settled(lambda: len(client.calls) == 2)
    assert client.rows() == [[0], [1, 2, 50, 51]]
    client.gate.release()
    await asyncio.gather(*tasks)


async def test_what_nobody_waits_for_makes_no_call() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    kept, left, bulk = (
        start(batcher, 0),
        start(batcher, 1),
        start(batcher, *range(10, 40), bulk=True),
    )
    last = start(batcher, 2)
    await settled()
    left.cancel()
    bulk.cancel()
    await settled()
    client.gate.release()
    client.gate.release()
    assert (await kept)[0, 0] == 0
    assert (await last)[0, 0] == 2
    assert client.rows() == [[0], [2]]


async def test_who_leaves_during_a_call_does_not_disturb_the_others() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    first, leaves, stays = start(batcher, 0), start(batcher, 1), start(batcher, 2)
    await settled()
    client.gate.release()
    await settled(lambda: len(client.calls) == 2)
    leaves.cancel()
    client.gate.release()
    await first
    assert (await stays)[0, 0] == 2


async def test_an_error_is_told_to_each_as_its_own() -> None:
    def failing(call: Call) -> Vectors:
        raise Overloaded("full", retry_after_s=7, param="input")

    batcher = Batcher(FakeInferClient(failing, delay=0.01), calls=1)
    tasks = [start(batcher, number) for number in range(4)]
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert len({id(error) for error in errors}) == 4
    for error in errors:
        assert isinstance(error, Overloaded)
        assert (error.message, error.retry_after_s, error.param) == ("full", 7, "input")


async def test_a_failed_call_leaves_the_lane_open() -> None:
    failures = iter([InferenceFailed("once")])

    def behave(call: Call) -> Vectors:
        for error in failures:
            raise error
        return echo(call)

    batcher = Batcher(Unchecked(behave), calls=1)
    with pytest.raises(InferenceFailed):
        await start(batcher, 1)
    assert (await start(batcher, 2))[0, 0] == 2


BAD = 13


class Failing(Held):
    """Fails on every call with a certain row, with this error."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__()
        self.error = error

    async def infer(self, call: Call, within: float) -> Vectors:
        vectors = await super().infer(call, within)
        if BAD in call.batch:
            raise self.error
        return vectors


async def test_a_row_that_a_model_fails_on_costs_only_its_own_request() -> None:
    client = Failing(InferenceFailed("no such token"))
    batcher = Batcher(client, calls=1)
    tasks = [start(batcher, 0), start(batcher, 1, 2), start(batcher, 3, BAD), start(batcher, 4)]
    for count in range(1, 6):
        await called(client, count)  # one at a time
        client.gate.release()
    first, pair, bad, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert client.rows() == [[0], [1, 2, 3, BAD, 4], [1, 2], [3, BAD], [4]]
    assert isinstance(bad, InferenceFailed)
    for answer, values in ((first, [0]), (pair, [1, 2]), (last, [4])):
        assert isinstance(answer, np.ndarray)
        assert answer[:, 0].tolist() == values
    assert batcher._schedules["text"].underway == 0


async def test_a_request_that_fails_alone_is_not_run_again() -> None:
    client = Failing(InferenceFailed("no such token"))
    batcher = Batcher(client, calls=1)
    for _ in range(3):
        client.gate.release()
    with pytest.raises(InferenceFailed):
        await start(batcher, 1, BAD, *range(20, 40))
    assert [len(rows) for rows in client.rows()] == [8, 8, 6]


@pytest.mark.parametrize("kind", [Overloaded, Unavailable, DeadlineExceeded])
async def test_what_is_no_fault_of_the_model_is_not_run_again(kind: type[GatewayError]) -> None:
    client = Failing(kind("not now"))
    batcher = Batcher(client, calls=1)
    tasks = [start(batcher, number) for number in (0, 1, BAD, 2)]
    for _ in range(10):
        client.gate.release()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, np.ndarray)
    assert all(isinstance(each, kind) for each in others)
    assert client.rows() == [[0], [1, BAD, 2]]


async def test_a_request_that_has_ended_is_not_run_again() -> None:
    client = Failing(InferenceFailed("no such token"))
    batcher = Batcher(client, calls=1)
    first, bad, ended, stays = (start(batcher, number) for number in (0, BAD, 1, 2))
    client.gate.release()
    await called(client, 2)
    ended.cancel()
    for _ in range(3):
        client.gate.release()
    await asyncio.gather(first, bad, stays, return_exceptions=True)
    assert client.rows() == [[0], [BAD, 1, 2], [BAD], [2]]


async def test_calls_are_bounded_in_rows_and_bytes() -> None:
    client = Held()
    for _ in range(100):
        client.gate.release()
    batcher = Batcher(client, calls=2)
    answer = await start(batcher, *range(30), on=encoder(max_batch=8))
    assert answer[:, 0].tolist() == list(range(30))
    assert [len(call.batch) for call in client.calls] == [8, 8, 8, 6]
    client.calls.clear()
    wide = MAX_CALL_BYTES // 4 // 3 + 1  # int32: two fit, three do not
    await start(batcher, *range(5), on=encoder("wide"), width=wide)
    assert [len(call.batch) for call in client.calls] == [2, 2, 1]


async def test_rows_of_any_length_share_a_call_of_a_packed_tower() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    packed = replace(encoder(), pad_id=-1)
    tasks = [start(batcher, 0, on=packed)]
    tasks += [start(batcher, width, on=packed, width=width) for width in (3, 1, 2)]
    for _ in tasks:
        client.gate.release()
    answers = await asyncio.gather(*tasks)
    assert [answer[0, 0] for answer in answers] == [0, 3, 1, 2]
    assert client.calls[1].batch.tolist() == [[3, 3, 3], [1, -1, -1], [2, 2, -1]]


async def test_calls_of_a_packed_tower_are_bounded_in_tokens() -> None:
    client = Held()
    for _ in range(100):
        client.gate.release()
    batcher = Batcher(client, calls=1)
    packed = replace(encoder(max_batch=64), pad_id=0)
    long = MAX_CALL_TOKENS // 3 + 1  # two fit, three do not
    await start(batcher, *range(1, 6), on=packed, width=long)
    assert [len(call.batch) for call in client.calls] == [2, 2, 1]
    client.calls.clear()
    tasks = [start(batcher, 1, on=packed, width=long) for _ in range(4)]
    await asyncio.gather(*tasks)
    assert [len(call.batch) for call in client.calls] == [1, 2, 1]
    client.calls.clear()
    await start(batcher, 1, 2, on=packed, width=2 * MAX_CALL_TOKENS)
    assert [len(call.batch) for call in client.calls] == [1, 1]


async def test_each_encoder_has_a_queue_of_its_own() -> None:
    client = Held()
    batcher = Batcher(client, calls=1)
    tasks = [start(batcher, 0, on=encoder("a")), start(batcher, 1, on=encoder("b"))]
    await settled()
    assert {call.encoder.model for call in client.calls} == {"a", "b"}
    client.gate.release()
    client.gate.release()
    await asyncio.gather(*tasks)


async def test_nothing_is_queued_while_no_triton_answers() -> None:
    client = Held()
    client.away = True
    batcher = Batcher(client, calls=1)
    with pytest.raises(Unavailable) as refused:
        await start(batcher, 0)
    assert refused.value.retry_after_s == 3
    assert not client.calls


async def test_nothing_is_kept_of_what_nobody_wants_any_more() -> None:
    batcher = Batcher(Unchecked(echo, delay=0.01), calls=1)
    versions = [replace(encoder(queue="demo: text"), version=number) for number in range(1, 4)]
    await asyncio.gather(*(start(batcher, 1, on=each) for each in versions))
    left = start(batcher, 1), start(batcher, 2)
    await settled()
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await start(batcher, 3)
    assert not any(each.clients for each in batcher._schedules.values())
