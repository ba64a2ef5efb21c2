"""The client against the real service, and its errors."""

import threading
import time
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from openclip_triton import (
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServiceFailed,
    Unauthenticated,
    Unavailable,
)

from tests.client.fake import Fake, serving, vector_of
from tests.conftest import SAMPLES
from tests.gateway.certificates import Authority, Pair

IMAGES = [SAMPLES / "red-circle.png", SAMPLES / "blue-star.jpg"]
LABELS = ["red circle", "blue star", "green heart"]


def test_texts_are_embedded_as_over_rest(real: Client, api: httpx.Client) -> None:
    vectors = real.embed_texts(LABELS)
    body = {"model": "demo", "input": LABELS}
    expected = [row["embedding"] for row in api.post("/v1/embeddings", json=body).json()["data"]]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_many_texts_come_back_in_order(real: Client) -> None:
    texts = [f"{number} {label}" for number in range(100) for label in LABELS]
    vectors = real.embed_texts(texts, dimensions=16)
    assert vectors.shape == (300, 16)
    for place in (0, 17, 299):
        alone = real.embed_texts([texts[place]], dimensions=16)[0]
        np.testing.assert_allclose(vectors[place], alone, atol=1e-5)


def test_images_are_bytes_or_files(real: Client) -> None:
    vectors = real.embed_images([IMAGES[0], IMAGES[0].read_bytes(), IMAGES[1]])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.abs(vectors[0] - vectors[2]).max() > 0.1
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_images_are_classified(real: Client) -> None:
    red, blue = real.classify(IMAGES, LABELS, templates=["a photo of a {}."], top_k=2)
    assert [found.label for found in (red[0], blue[0])] == ["red circle", "blue star"]
    assert len(red) == 2
    assert red[0].score > 0.99
    assert red[0].index == 0


def test_similarity_has_a_row_for_each_image(real: Client) -> None:
    found = real.similarity(LABELS, IMAGES)
    assert found.cosine.shape == found.logits_per_image.shape == (2, 3)
    assert found.cosine.argmax(axis=1).tolist() == [0, 1]
    np.testing.assert_allclose(found.logits_per_text, found.logits_per_image.T)


def test_documents_are_ranked(real: Client) -> None:
    ranked = real.rerank("a photo of a blue star.", [*IMAGES, "green heart"], top_n=2)
    assert ranked[0].index == 1
    assert len(ranked) == 2
    assert ranked[0].score > ranked[1].score


def test_models_are_listed(real: Client) -> None:
    [model] = real.models()
    assert (model.id, model.embedding_size, model.image_size) == ("demo", 64, 64)
    assert model.card == "/v1/cards/demo"
    space = real.space()
    assert (space.model, space.fingerprint, space.dimensions) == ("demo", model.fingerprint, 64)


def test_what_is_wrong_is_named(real: Client) -> None:
    with pytest.raises(NotFound, match="'nope'") as unknown:
        real.embed_texts(["a"], model="nope")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(InvalidRequest) as bad:
        real.embed_images([IMAGES[0], b"no image"])
    assert (bad.value.code, bad.value.param) == ("invalid_image", "input[1]")
    with pytest.raises(InvalidRequest, match="at least one"):
        real.embed_texts([])
    with pytest.raises(NotFound):
        real.classify(IMAGES, label_set="nope")


def test_unreachable_is_a_failed_connection() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1"):
        client.models()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "too_large", InvalidRequest),
        (grpc.StatusCode.UNAUTHENTICATED, "invalid_api_key", Unauthenticated),
        (grpc.StatusCode.NOT_FOUND, "label_set_not_found", NotFound),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded", Overloaded),
        (grpc.StatusCode.UNAVAILABLE, "unavailable", Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded", DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, "internal_error", ServiceFailed),
    ],
)
def test_each_status_has_its_error(
    address: str, fake: Fake, status: grpc.StatusCode, code: str, kind: type[Exception]
) -> None:
    fake.refuse = (status, code, "because")
    with (
        Client(address) as client,
        pytest.raises(kind, match="because") as raised,
    ):
        client.models()
    assert raised.type is kind
    assert (raised.value.code, raised.value.param) == (code, "model")  # type: ignore[attr-defined]


def test_another_service_is_named(client: Client) -> None:
    with pytest.raises(ServiceFailed, match=r"does not speak openclip\.v1\.ClipService"):
        client.similarity(["a"], [b"b"])


def test_a_call_is_tried_again_where_the_service_says_when(client: Client, fake: Fake) -> None:
    fake.unary_failures, fake.pushback = 2, ("grpc-retry-pushback-ms", "20")
    assert [model.id for model in client.models()] == ["fake"]


@pytest.mark.parametrize(
    "pushback", [None, ("grpc-retry-pushback-ms", "-1"), ("retry-after", "soon")]
)
def test_a_call_is_not_tried_again_where_it_says_nothing(
    client: Client, fake: Fake, pushback: tuple[str, str] | None
) -> None:
    fake.unary_failures, fake.pushback = 2, pushback
    with pytest.raises(Overloaded) as raised:
        client.models()
    assert raised.value.retry_after_s == 0
    assert fake.unary_failures == 1


def test_attempts_end(client: Client, fake: Fake) -> None:
    fake.unary_failures, fake.pushback = 100, ("grpc-retry-pushback-ms", "1")
    with pytest.raises(Overloaded):
        client.models()
    assert fake.unary_failures == 96


def test_a_refused_call_waits_as_long_as_it_is_told(address: str, fake: Fake) -> None:
    fake.unary_failures, fake.pushback = 1, ("retry-after", "1")
    started = time.monotonic()
    with Client(address) as client:
        assert client.models()
    assert time.monotonic() - started >= 1


def test_a_stream_waits_as_long_as_it_is_told(address: str, fake: Fake) -> None:
    fake.unary_failures, fake.pushback = 1, ("retry-after", "1")
    started = time.monotonic()
    with Client(address) as client:
        [result] = client.stream([("a", "a text")])
    assert result.vector is not None
    assert time.monotonic() - started >= 1


def test_a_wait_that_is_too_long_is_not_begun(address: str, fake: Fake) -> None:
    fake.unary_failures, fake.pushback = 1, ("retry-after", "600")
    with Client(address, timeout=20) as client, pytest.raises(Overloaded) as raised:
        client.models()
    assert raised.value.retry_after_s == 600
    assert fake.unary_failures == 0


def test_no_answer_in_time(address: str, fake: Fake) -> None:
    fake.hold = threading.Event()
    try:
        with Client(address, timeout=0.2) as client, pytest.raises(DeadlineExceeded):
            client.embed_texts(["a"])
    finally:
        fake.hold.set()


def test_the_key_is_sent(address: str, fake: Fake) -> None:
    with Client(address, api_key="secret") as client:
        client.models()
    assert fake.metadata["authorization"] == "Bearer secret"


def test_tls_with_an_authority_of_ones_own(tmp_path: Path, fake: Fake) -> None:
    authority = Authority(tmp_path)
    ours = authority.issue("127.0.0.1")
    with serving(fake, _credentials(authority, ours)) as address:
        with Client(address, tls_ca=authority.certificate) as client:
            np.testing.assert_array_equal(client.embed_texts(["a"])[0], vector_of("a"))
        with Client(address, tls=True, timeout=3) as client, pytest.raises(ConnectionFailed):
            client.models()


def test_tls_with_a_certificate_of_ones_own(tmp_path: Path, fake: Fake) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("mobile-app", server=False)
    credentials = _credentials(authority, authority.issue("127.0.0.1"), ask=True)
    trust = authority.certificate
    with serving(fake, credentials) as address:
        with Client(address, tls_ca=trust, tls_cert=own.certificate, tls_key=own.key) as client:
            assert client.models()
        with Client(address, tls_ca=trust, timeout=3) as client, pytest.raises(ConnectionFailed):
            client.models()


def _credentials(authority: Authority, pair: Pair, *, ask: bool = False) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(pair.key.read_bytes(), pair.certificate.read_bytes())],
        authority.certificate.read_bytes() if ask else None,
        require_client_auth=ask,
    )
