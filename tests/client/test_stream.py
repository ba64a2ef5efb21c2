"""Streams under staged faults: every id is answered once, and memory is bounded."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from openclip_triton import (
    Client,
    ConnectionFailed,
    InvalidRequest,
    ModelChanged,
    NotFound,
    Overloaded,
    Result,
    UnreadableFile,
)
from openclip_triton.values import Content

from tests.client.conftest import FAST
from tests.client.fake import Fake, serving, vector_of

TEXTS = [f"text {number}" for number in range(500)]


def embed_all(client: Client, texts: list[str] = TEXTS, **options: object) -> list[Result[int]]:
    settings = {"settings": FAST} | options
    return list(client.stream(enumerate(texts), **settings))  # type: ignore[arg-type]


def assert_right(results: list[Result[int]], texts: list[str] = TEXTS) -> None:
    assert sorted(result.id for result in results) == list(range(len(texts)))
    for result in results:
        assert result.vector is not None, result.error
        assert np.array_equal(result.vector, vector_of(texts[result.id]))


def test_each_item_is_answered_once(client: Client) -> None:
    assert_right(embed_all(client))


def test_a_stream_ends_without_being_cancelled(client: Client, fake: Fake) -> None:
    for number in range(1, 6):
        embed_all(client, TEXTS[:3])
        assert fake.ended_streams == fake.streams == number


def test_ordered_results_come_in_the_order_of_the_items(client: Client, fake: Fake) -> None:
    fake.overloaded = {TEXTS[3]: 2, TEXTS[250]: 1}
    results = embed_all(client, ordered=True)
    assert [result.id for result in results] == list(range(len(TEXTS)))
    assert_right(results)


def test_nothing_gives_nothing(client: Client) -> None:
    assert embed_all(client, []) == []


def test_equal_ids_are_not_confused(client: Client) -> None:
    results = list(client.stream([("same", "a"), ("same", "b")], ordered=True))
    assert [result.id for result in results] == ["same", "same"]
    for result, text in zip(results, "ab", strict=True):
        assert result.vector is not None
        assert np.array_equal(result.vector, vector_of(text))


def test_errors_that_last_are_results(client: Client, fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(b"good")
    items: list[tuple[str, Content]] = [
        ("good", tmp_path / "good.png"),
        ("bytes", b"bytes"),
        ("bad", b"bad"),
        ("missing", tmp_path / "missing.png"),
        ("null", tmp_path / "null\0.png"),
        ("text", "a text"),
    ]
    results = {result.id: result for result in client.stream(items, settings=FAST)}
    assert {key for key, result in results.items() if result.error} == {"bad", "missing", "null"}
    bad, missing = results["bad"].error, results["missing"].error
    assert isinstance(results["null"].error, UnreadableFile)
    assert isinstance(bad, InvalidRequest)
    assert (bad.message, bad.code, bad.param) == ("image: not an image", "invalid_image", "image")
    assert isinstance(missing, UnreadableFile)
    assert "missing.png: No such file" in missing.message
    assert fake.seen[b"bad"] == 1


def test_an_item_over_the_limit_is_not_sent(client: Client, fake: Fake) -> None:
    settings = replace(FAST, max_item_bytes=10)
    large, small = client.stream(
        [(0, b"01234567890"), (1, b"0123456789")], settings=settings, ordered=True
    )
    assert large.error is not None
    assert large.error.code == "too_large"
    assert small.vector is not None
    assert list(fake.seen) == [b"0123456789"]


def test_errors_that_pass_are_retried(client: Client, fake: Fake) -> None:
    fake.overloaded = {TEXTS[number]: 3 for number in range(0, 500, 50)}
    assert_right(embed_all(client))
    assert fake.seen[TEXTS[50].encode()] == 4


def test_retries_end(client: Client, fake: Fake) -> None:
    fake.overloaded = {"never": 10**6}
    results = embed_all(client, ["one", "never"], settings=replace(FAST, retries=3))
    [failed] = [result.error for result in results if result.error]
    assert isinstance(failed, Overloaded)
    assert fake.seen[b"never"] == 4


def test_a_lost_connection_is_resumed_with_what_was_not_answered(
    client: Client, fake: Fake
) -> None:
    fake.break_after = [100, 0, 57]
    settings = replace(FAST, max_items=64)
    assert_right(embed_all(client, settings=settings))
    assert fake.streams == 4
    # What was in flight at a break is sent again, and no more than that.
    assert sum(fake.seen.values()) <= len(TEXTS) + 2 * settings.max_items
    assert [options.model for options in fake.options] == [""] * len(fake.options)


def test_the_options_are_sent_on_every_connection(client: Client, fake: Fake) -> None:
    fake.break_after = [10]
    embed_all(client, model="m", dimensions=5, truncate=False)
    assert [(o.model, o.dimensions, o.truncate) for o in fake.options] == [("m", 5, False)] * 2


def test_a_connection_that_never_works_is_given_up(client: Client, fake: Fake) -> None:
    fake.break_after = [0] * 100
    with pytest.raises(ConnectionFailed, match="connection reset by peer"):
        embed_all(client, settings=replace(FAST, retries=2))
    assert fake.streams == 3


def test_silence_counts_as_a_lost_connection(client: Client, fake: Fake) -> None:
    fake.silent_streams = 1
    assert_right(embed_all(client, settings=replace(FAST, idle_s=2.0)))
    assert fake.streams == 2


def test_no_service_is_a_failed_connection() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1"):
        embed_all(client, settings=replace(FAST, retries=2))


def test_a_refused_stream_raises(client: Client, fake: Fake) -> None:
    fake.refuse = (grpc.StatusCode.NOT_FOUND, "model_not_found", "the model 'm' is not served")
    with pytest.raises(NotFound, match="the model 'm'") as raised:
        embed_all(client)
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert fake.streams == 0


def test_another_model_after_a_reconnection_is_refused(client: Client, fake: Fake) -> None:
    fake.break_after = [100]
    results = client.stream(enumerate(TEXTS), settings=FAST)
    next(results)
    fake.fingerprint = "a" * 64
    with pytest.raises(ModelChanged, match="aaaa"):
        list(results)


def test_an_expected_fingerprint_is_checked(client: Client) -> None:
    with pytest.raises(ModelChanged):
        embed_all(client, fingerprint="other")


def test_an_error_of_the_iterable_is_raised_after_the_results(client: Client) -> None:
    def items() -> Iterator[tuple[int, str]]:
        yield 0, "text"
        raise KeyError("mine")

    results = client.stream(items())
    assert next(results).id == 0
    with pytest.raises(KeyError, match="mine"):
        next(results)


def test_an_item_of_a_wrong_type_is_raised(client: Client) -> None:
    with pytest.raises(TypeError, match="not int"):
        list(client.stream([(0, 7)]))  # type: ignore[list-item]


def test_items_are_taken_no_further_than_the_window(client: Client) -> None:
    taken = itertools.count()
    drawn: list[int] = []

    def items() -> Iterator[tuple[int, str]]:
        for number in taken:
            drawn.append(number)
            yield number, f"text {number}"

    results = client.stream(items(), settings=replace(FAST, max_items=40))
    for count, _ in enumerate(itertools.islice(results, 400), start=1):
        assert len(drawn) <= count + 40
    results.close()


def test_bytes_are_bounded(client: Client, fake: Fake) -> None:
    fake.hold = threading.Event()
    drawn: list[int] = []

    def items() -> Iterator[tuple[int, bytes]]:
        for number in range(100):
            drawn.append(number)
            yield number, number.to_bytes(2, "big") * 500

    settings = replace(FAST, max_bytes=5_000)
    results = client.stream(items(), settings=settings, ordered=True)
    threading.Timer(0.3, fake.hold.set).start()
    assert next(results).id == 0
    assert len(drawn) <= 6  # five that fit, and one that waits for room
    assert [result.id for result in results] == list(range(1, 100))


def test_an_item_larger_than_the_window_goes_alone(client: Client) -> None:
    settings = replace(FAST, max_bytes=10)
    results = list(client.stream(enumerate([b"x" * 50, b"y", b"z" * 20]), settings=settings))
    assert sorted(result.id for result in results) == [0, 1, 2]


def test_an_abandoned_stream_ends_the_call_and_its_threads(client: Client, fake: Fake) -> None:
    results = client.stream(((n, f"text {n}") for n in itertools.count()), settings=FAST)
    next(results)
    results.close()
    assert fake.cancelled.wait(10)
    for thread in threading.enumerate():
        if thread.name.startswith("openclip"):
            thread.join(10)
            assert not thread.is_alive()


def test_several_addresses_are_one_service() -> None:
    fakes = [Fake(), Fake()]
    with ExitStack() as stack:
        running = [stack.enter_context(ExitStack()) for _ in fakes]
        pairs = zip(running, fakes, strict=True)
        target = "ipv4:" + ",".join(each.enter_context(serving(fake)) for each, fake in pairs)
        with Client(target, timeout=20) as client:
            client.models()
            while not all(each.metadata for each in fakes):  # calls take turns
                client.models()
            used = threading.Event()
            texts = iter(enumerate(TEXTS))

            def items() -> Iterator[tuple[int, str]]:
                yield from itertools.islice(texts, 100)
                used.wait(20)  # for the first answers
                yield from texts

            results = client.stream(items(), settings=FAST)
            first = next(results)
            [lost] = [n for n, each in enumerate(fakes) if each.streams]
            running[lost].close()
            used.set()
            assert_right([first, *results])
            assert fakes[1 - lost].streams == 1
            assert client.models()
