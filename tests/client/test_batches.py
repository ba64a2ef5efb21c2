"""The callable of Ray Data's map_batches, called as Ray calls it."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import numpy as np
import pytest
from openclip_triton import Client, ClientError, ConnectionFailed, ModelChanged
from openclip_triton.bulk.batches import NOTHING, BatchEmbedder

from tests.client.fake import DIMENSIONS, Fake, vector_of


def column(*contents: object) -> dict[str, np.ndarray[tuple[int], np.dtype[np.object_]]]:
    found = np.empty(len(contents), object)
    found[:] = contents
    return {"item": found}


def test_a_batch_gets_vectors_and_reasons(address: str) -> None:
    contents = (b"picture", b"bad picture", None, b"zeros\0\0", "a text")
    batch = column(*contents) | {"key": np.arange(5)}
    found = BatchEmbedder(address, "item")(batch)
    assert list(found) == ["item", "key", "embedding", "error"]
    assert found["key"].tolist() == [0, 1, 2, 3, 4]
    vectors = found["embedding"]
    assert vectors.shape == (5, DIMENSIONS)
    assert vectors.dtype == np.float32
    assert np.isnan(vectors[1:3]).all()
    for row in (0, 3, 4):
        content = contents[row]
        assert isinstance(content, str | bytes)
        np.testing.assert_array_equal(vectors[row], vector_of(content))
    reasons = found["error"].tolist()
    assert reasons == ["", "invalid_image: image: not an image", NOTHING, "", ""]


def test_a_batch_of_nothing_keeps_its_shape(address: str) -> None:
    embedder = BatchEmbedder(address, "item")
    assert embedder(column())["embedding"].shape == (0, DIMENSIONS)
    assert np.isnan(embedder(column(None, None))["embedding"]).all()


def test_its_columns_can_be_named_and_its_options_are_sent(address: str, fake: Fake) -> None:
    embedder = BatchEmbedder(
        address, "item", model="fake", dimensions=DIMENSIONS, truncate=False, output="v", error="e"
    )
    assert list(embedder(column("a text"))) == ["item", "v", "e"]
    [options] = fake.options
    sent = (options.model, options.dimensions, options.truncate)
    assert sent == ("fake", DIMENSIONS, False)


def test_threads_share_one(address: str, fake: Fake) -> None:
    embedder = BatchEmbedder(address, "item")
    fake.hold = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(embedder, column(f"text {number}")) for number in range(4)]
        fake.hold.set()
        for number, one in enumerate(waiting):
            np.testing.assert_array_equal(one.result()["embedding"][0], vector_of(f"text {number}"))


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"other": np.array(["a"])}, KeyError, "no column 'item', only other"),
        (column("a", np.zeros((2, 2, 3))), TypeError, r"item\[1\]: .* not ndarray"),
        ({"item": np.array([b"a\0"])}, TypeError, "dtype object"),
    ],
)
def test_a_wrong_column_is_named(
    address: str, batch: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BatchEmbedder(address, "item")(batch)  # type: ignore[arg-type]


def test_another_model_is_refused(address: str, fake: Fake) -> None:
    with pytest.raises(ModelChanged):
        BatchEmbedder(address, "item", fingerprint="e" * 64)(column("a text"))
    embedder = BatchEmbedder(address, "item")
    fake.fingerprint = "a" * 64
    with pytest.raises(ModelChanged):
        embedder(column("a text"))


def test_without_a_service_there_is_none() -> None:
    with pytest.raises(ConnectionFailed):
        BatchEmbedder("127.0.0.1:1", "item")


def test_errors_and_clients_to_be_pass_between_processes(address: str, fake: Fake) -> None:
    fake.refuse = (grpc.StatusCode.NOT_FOUND, "model_not_found", "the model 'm' is not served")
    connect = pickle.loads(pickle.dumps(partial(Client, address)))  # noqa: S301 - our own
    with connect() as client, pytest.raises(ClientError) as raised:
        client.space(model="m")
    copy = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 - our own
    assert type(copy) is type(raised.value)
    assert (copy.message, copy.code, copy.param) == (
        "the model 'm' is not served", "model_not_found", "model",
    )  # fmt: skip
