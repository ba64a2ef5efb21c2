"""The encoder over a client that notes its calls: lengths, what is known, whose row is whose."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from gateway.admission.limits import RequestLimits
from gateway.errors import ImageError, TextError
from gateway.inference.batching import Batcher
from gateway.inference.client import Call
from gateway.models.manifest import Manifest, Preprocessing
from gateway.models.registry import Model
from gateway.models.values import (
    Deadline,
    Execution,
    ImageItem,
    Item,
    Pixels,
    TextItem,
    Timings,
    Tokens,
    Vectors,
)
from gateway.pipeline.cache import VectorCache
from gateway.pipeline.concurrency import Threads
from gateway.pipeline.embedding import PART_IMAGES, Embedder, Encoders
from gateway.pipeline.prepare import Preparer
from tests.gateway.fakes import Unchecked
from tests.gateway.rpcserver import loaded

SHORT, LONG = 16, 32  # tokens


@pytest.fixture
def model() -> Model:
    return loaded().models.find("demo")


@pytest.fixture
def padded(model: Model) -> Model:
    """The same model, with a text tower for each of two lengths."""
    content = model.manifest.model_dump()
    content["triton"]["text"] = [
        {"name": f"demo.text-{length}", "length": length, "max_batch": 32}
        for length in (SHORT, LONG)
    ]
    return replace(model, manifest=Manifest.model_validate(content))


def marked(call: Call) -> Vectors:
    """Each answer names its row: the second token, or the first pixel."""
    rows = np.zeros((len(call.batch), call.encoder.embedding_size), dtype=np.float32)
    rows[:, 0] = call.batch.reshape(len(call.batch), -1)[:, 1]
    return rows


def tokens(*numbers: int, length: int = 5) -> dict[int, Tokens]:
    """By number, texts of `length` tokens with that number as the second."""
    return {
        number: Tokens(np.array([49406, number, *[7] * (length - 3), 49407], np.int32), False)
        for number in numbers
    }


async def texts(encoder: Encoders, model: Model, asked: Mapping[int, Tokens]) -> dict[int, float]:
    rows = await encoder.texts(model, asked, Execution(Deadline.after(30), Timings()))
    return {index: float(row.vector[0]) for index, row in rows.items()}


async def test_texts_of_any_length_share_a_call(model: Model) -> None:
    client = Unchecked(marked)
    encoder = Encoders(Batcher(client, 2), VectorCache(0))
    asked = tokens(3, 1, 2) | tokens(9, 8, length=20) | tokens(5, length=SHORT)
    assert await texts(encoder, model, asked) == {number: number for number in (3, 1, 2, 9, 8, 5)}
    [call] = client.calls
    assert call.batch.shape == (6, 20)
    pad = model.manifest.tokenizer.pad_id
    lengths = {number: len(asked[number].ids) for number in asked}
    for row in call.batch:
        length = lengths[row[1]]
        assert row[length - 1] == 49407
        assert (row[length:] == pad).all()


async def test_every_text_gets_its_own_vector_at_the_shortest_length(padded: Model) -> None:
    client = Unchecked(marked)
    encoder = Encoders(Batcher(client, 2), VectorCache(0))
    asked = tokens(3, 1, 2) | tokens(9, 8, length=20) | tokens(5, length=SHORT)
    assert await texts(encoder, padded, asked) == {number: number for number in (3, 1, 2, 9, 8, 5)}
    assert sorted(call.batch.shape for call in client.calls) == [(2, LONG), (4, SHORT)]


async def test_equal_texts_are_encoded_once(model: Model) -> None:
    client = Unchecked(marked)
    encoder = Encoders(Batcher(client, 2), VectorCache(0))
    asked = dict(enumerate([*tokens(4).values(), *tokens(6).values(), *tokens(4).values()]))
    assert await texts(encoder, model, asked) == {0: 4, 1: 6, 2: 4}
    assert [len(call.batch) for call in client.calls] == [2]


async def test_known_texts_are_not_encoded_again(model: Model) -> None:
    client = Unchecked(marked)
    looked_up: list[tuple[int, int]] = []
    cache = VectorCache(2**20, lambda hits, misses: looked_up.append((hits, misses)))
    encoder = Encoders(Batcher(client, 2), cache)
    assert await texts(encoder, model, tokens(1, 2)) == {1: 1, 2: 2}
    assert await texts(encoder, model, tokens(2, 3)) == {2: 2, 3: 3}
    assert [len(call.batch) for call in client.calls] == [2, 1]
    assert looked_up == [(0, 2), (1, 1)]


async def test_what_two_requests_want_at_once_is_encoded_once(model: Model) -> None:
    client = Unchecked(marked, delay=0.05)
    encoder = Encoders(Batcher(client, 2), VectorCache(2**20))
    asked = [texts(encoder, model, tokens(1, 2)), texts(encoder, model, tokens(2, 1))]
    assert await asyncio.gather(*asked) == [{1: 1, 2: 2}, {1: 1, 2: 2}]
    assert [len(call.batch) for call in client.calls] == [2]


async def test_images_keep_their_indices(model: Model) -> None:
    client = Unchecked(marked)
    encoder = Encoders(Batcher(client, 2), VectorCache(0))
    pixels = {index: np.full((64, 64, 3), index, np.uint8) for index in (7, 2, 5)}
    rows = await encoder.images(model, pixels, Execution(Deadline.after(30), Timings()))
    assert {index: float(row[0]) for index, row in rows.items()} == {7: 7, 2: 2, 5: 5}
    assert len(client.calls) == 1


@pytest.mark.parametrize("truncate", [True, False])
def test_many_texts_are_tokenized_as_one_by_one(model: Model, truncate: bool) -> None:
    given = [
        "a photo of a red circle.", "", "UPPER Case", "tab\tand\nline", "a&amp;b &lt;i&gt;", "é ﬁ",
        "word " * 100, "lone \ud800 surrogate", "x" * 500, "\x7f\x00", "'s DON'T", "a_b__c <b>",
    ]  # fmt: skip
    outcomes = model.tokenizer.encode_all(given, truncate=truncate)
    assert len(outcomes) == len(given)
    for text, outcome in zip(given, outcomes, strict=True):
        if isinstance(outcome, TextError):
            with pytest.raises(TextError, match=re.escape(outcome.message)) as alone:
                model.tokenizer.encode(text, truncate=truncate)
            assert outcome.code == alone.value.code
        else:
            wanted = model.tokenizer.encode(text, truncate=truncate)
            np.testing.assert_array_equal(outcome.ids, wanted.ids)
            assert outcome.truncated == wanted.truncated
    assert sum(isinstance(outcome, TextError) for outcome in outcomes) == (1 if truncate else 3)


async def test_pixels_of_many_images_are_not_in_memory_at_a_time(model: Model) -> None:
    size = model.manifest.preprocessing.image_size
    decoded: list[int] = []

    def decode(data: bytes, _: Preprocessing) -> Pixels:
        if not data:
            raise ImageError("there is nothing in it")
        decoded.append(data[0])
        return np.full((size, size, 3), data[0], np.uint8)

    ahead: list[int] = []  # images that were decoded and are not encoded yet, at each call
    encoded = 0

    def behave(call: Call) -> Vectors:
        nonlocal encoded
        if call.batch.dtype == np.uint8:
            ahead.append(len(decoded) - encoded)
            encoded += len(call.batch)
        return marked(call)

    threads = Threads(2)
    limits = RequestLimits(10**4, 1, 1, 1_000)
    embedder = Embedder(
        Preparer(threads, limits, decode),
        Encoders(Batcher(Unchecked(behave), 1), VectorCache(0)),
    )
    count = 3 * PART_IMAGES
    numbers = [number % 251 for number in range(count)]
    images: list[Item] = [ImageItem(bytes([n]), f"input[{n}]") for n in numbers]
    images[PART_IMAGES + 7] = ImageItem(b"", "input[]")
    items = [TextItem("a", "input[0]"), *images, TextItem("word " * 200, "input[1]")]
    found = await embedder.embed(model, items, Execution(Deadline.after(60), Timings()), skip=True)
    await threads.close()
    bad = PART_IMAGES + 8
    assert set(found.failed) == {bad}
    assert found.truncated == (*[False] * (count + 1), True)
    assert (found.images, len(found.vectors)) == (count - 1, count + 2)
    rows = [vector[0] for index, vector in enumerate(found.vectors[1:-1], 1) if index != bad]
    assert rows == [n for index, n in enumerate(numbers, 1) if index != bad]
    assert max(ahead) <= PART_IMAGES
