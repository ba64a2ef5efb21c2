"""What callers give: mistakes that would have given wrong vectors are refused, by name."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openclip_triton import Client, ClientError, InvalidRequest, UnreadableFile

from tests.client.conftest import FAST
from tests.client.fake import Fake, vector_of
from tests.conftest import SAMPLES

IMAGE = SAMPLES / "red-circle.png"
PATH = "photos/red-circle.png"
LABELS = ["red circle", "blue star"]

Mistake = Callable[[Any], object]  # `Any`: none of them passes a type checker


@pytest.fixture
def nowhere() -> Client:
    """Of no service: what is refused is refused before anything is sent."""
    return Client("127.0.0.1:1", timeout=0.1)


@pytest.mark.parametrize(
    ("mistake", "name"),
    [
        (lambda client: client.embed_texts("a red circle"), "texts"),
        (lambda client: client.embed_texts(b"a red circle"), "texts"),
        (lambda client: client.embed_images(IMAGE.read_bytes()), "images"),
        (lambda client: client.embed_images(bytearray(b"image")), "images"),
        (lambda client: client.embed_images(IMAGE), "images"),
        (lambda client: client.embed_images(PATH), "images"),
        (lambda client: client.classify(IMAGE, LABELS), "images"),
        (lambda client: client.classify([IMAGE], "cat"), "labels"),
        (lambda client: client.classify([IMAGE], LABELS, templates="a photo of a {}"), "templates"),
        (lambda client: client.similarity("cat", [IMAGE]), "texts"),
        (lambda client: client.similarity(LABELS, b"image"), "images"),
        (lambda client: client.rerank("a", "bc"), "documents"),
        (lambda client: client.rerank("a", memoryview(b"image")), "documents"),
    ],
)
def test_one_is_no_list(nowhere: Client, mistake: Mistake, name: str) -> None:
    said = rf"^{name}: give a list, not a single \w+; put it in brackets: {name}=\[\.\.\.\]$"
    with nowhere, pytest.raises(TypeError, match=said):
        mistake(nowhere)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda client: client.embed_images([IMAGE, PATH]),
        lambda client: client.embed_images([IMAGE] + [PATH] * 99),
        lambda client: client.classify([IMAGE, PATH], LABELS),
        lambda client: client.similarity(LABELS, [IMAGE, PATH]),
    ],
)
def test_a_path_must_be_a_path_where_images_are_wanted(nowhere: Client, mistake: Mistake) -> None:
    said = r"^images\[1\]: a str is a text.* wrap it in pathlib\.Path$"
    with nowhere, pytest.raises(TypeError, match=said):
        mistake(nowhere)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda client: client.embed_texts(["a", IMAGE]), r"texts\[1\]: a text is a str, not Posi"),
        (lambda client: client.embed_texts([b"a"]), r"texts\[0\]: a text is a str, not bytes"),
        (
            lambda client: client.embed_texts(each for each in "ab"),
            r"texts: .*not generator; use l",
        ),
        (lambda client: client.embed_images([7]), r"images\[0\]: an image is bytes or a pathlib"),
        (lambda client: client.classify([IMAGE], [b"cat"]), r"labels\[0\]: a text is a str"),
        (lambda client: client.rerank(["a"], LABELS), r"query: an item is a str, .* not list"),
        (
            lambda client: client.rerank("a", ["b", None]),
            r"documents\[1\]: an item is a str, bytes",
        ),
        (lambda client: list(client.stream("ab")), "pairs of an id and an item, not str"),
        (lambda client: list(client.stream(["ab"])), "pairs of an id and an item, not str"),
        (lambda client: list(client.stream([("x", 7)])), "item 'x': an item is .* not int"),
    ],
)
def test_what_is_no_item_is_named(client: Client, mistake: Mistake, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        mistake(client)


def test_a_str_is_a_text_where_either_may_stand(client: Client) -> None:
    [result] = client.stream([("a", PATH)], settings=FAST)
    assert result.vector is not None
    np.testing.assert_array_equal(result.vector, vector_of(PATH))


@pytest.mark.parametrize("count", [2, 100])
def test_arrays_of_texts_are_sequences(client: Client, count: int) -> None:
    texts = [f"text {number}" for number in range(count)]
    expected = np.stack([vector_of(text) for text in texts])
    np.testing.assert_array_equal(client.embed_texts(np.array(texts)), expected)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="at least one"):
        client.embed_texts(np.array([], np.str_))  # type: ignore[arg-type]


def test_arrays_of_labels_are_sequences(real: Client) -> None:
    [row] = real.classify([IMAGE], np.array(LABELS), templates=np.array(["a photo of a {}."]))  # type: ignore[arg-type]
    assert row[0].label == "red circle"
    assert real.similarity(np.array(LABELS), [IMAGE]).cosine.shape == (1, 2)  # type: ignore[arg-type]
    assert len(real.rerank("red circle", np.array(LABELS))) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_images_are_any_bytes(client: Client, kind: Callable[[bytes], Any], count: int) -> None:
    contents = [b"image %d" % number for number in range(count)]
    expected = np.stack([vector_of(content) for content in contents])
    np.testing.assert_array_equal(client.embed_images([kind(c) for c in contents]), expected)


def test_a_view_counts_its_bytes(client: Client, fake: Fake) -> None:
    wide = memoryview(bytes(80)).cast("I")  # 20 of them
    [result] = client.stream([(0, wide)], settings=FAST)
    assert result.vector is not None
    assert list(fake.seen) == [bytes(80)]


def test_a_buffer_may_be_filled_anew_for_the_next_item(client: Client) -> None:
    buffer = bytearray(4)
    numbers = range(200)

    def items() -> Any:
        for number in numbers:
            buffer[:] = number.to_bytes(4, "big")
            yield number, buffer

    for result in client.stream(items(), settings=FAST):
        assert result.vector is not None
        np.testing.assert_array_equal(result.vector, vector_of(result.id.to_bytes(4, "big")))


@pytest.mark.parametrize("place", [1, 70])
def test_an_empty_text_is_named_by_its_own_index(real: Client, place: int) -> None:
    texts = ["text"] * place + [""] + ["text"] * 3
    error = _error(lambda: real.embed_texts(texts))
    assert isinstance(error, InvalidRequest)
    assert str(error) == error.message == f"input[{place}]: the text is empty"
    assert error.param == f"input[{place}]"


@pytest.mark.parametrize("place", [1, 70])
def test_a_bad_image_is_named_by_its_own_index(real: Client, tmp_path: Path, place: int) -> None:
    good: list[Path | bytes] = [IMAGE] * place
    error = _error(lambda: real.embed_images([*good, b"no image", IMAGE]))
    assert (error.code, error.param) == ("invalid_image", f"input[{place}]")
    assert re.match(rf"input\[{place}\]: (?!image|input)", error.message)
    error = _error(lambda: real.embed_images([*good, tmp_path / "gone.png"]))
    assert isinstance(error, UnreadableFile)
    assert error.message == f"input[{place}]: {tmp_path}/gone.png: No such file or directory"


def test_items_of_other_calls_are_named_as_well(real: Client, tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    contents: list[bytes | Path] = [b"no image", gone]
    for content in contents:
        image = partial(real.classify, [IMAGE, content], LABELS)
        compared = partial(real.similarity, LABELS, [IMAGE, content])
        document = partial(real.rerank, "a", [IMAGE, "b", content])
        assert _error(image).message.startswith("images[1]: ")
        assert _error(compared).message.startswith("images[1]: ")
        assert _error(document).message.startswith("documents[2]: ")
    error = _error(lambda: real.classify([IMAGE], ["a", ""]))
    assert error.message == "labels[1]: the text is empty"
    assert _error(lambda: real.rerank(gone, LABELS)).param == "query"


def _error(call: Callable[[], object]) -> ClientError:
    with pytest.raises(ClientError) as raised:
        call()
    return raised.value
