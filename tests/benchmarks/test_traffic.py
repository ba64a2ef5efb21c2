import json
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks import compare
from benchmarks.reporting import targets
from benchmarks.traffic import loops
from benchmarks.traffic.captions import MEDIAN, P95, Captions, tokens
from benchmarks.traffic.connection import Target
from benchmarks.traffic.photos import photos
from benchmarks.traffic.requests import KINDS, OFFERED, captions, requests
from tests.benchmarks.forms import CONTEXT, DEMO
from tests.conftest import GatewayClient


def test_captions_have_the_lengths_of_the_mix() -> None:
    lengths = [tokens(caption) for caption in Captions(seed=5).take(5_000)]
    assert np.median(lengths) == MEDIAN
    assert np.percentile(lengths, 95) == pytest.approx(P95, abs=1)


def test_no_caption_comes_twice_and_seeds_differ() -> None:
    first, again, other = (Captions(seed).take(1_000) for seed in (1, 1, 2))
    assert first == again
    assert len(set(first)) == 1_000
    assert len(set(first) & set(other)) < 10


def test_their_length_is_the_tokenizers(api: httpx.Client) -> None:
    drawn = Captions().take(200)
    answer = api.post("/v1/embeddings", json={"model": "demo", "input": drawn}).json()
    assert answer["usage"]["prompt_tokens"] == sum(tokens(caption) for caption in drawn)


def test_full_captions_fill_the_context(api: httpx.Client) -> None:
    drawn = Captions(seed=3, length=CONTEXT).take(200)
    assert {tokens(caption) for caption in drawn} == {CONTEXT}
    assert len(set(drawn)) == 200
    sent = islice(captions("demo", seed=3, length=CONTEXT), 5)
    for caption, request in zip(drawn, sent, strict=False):
        body = json.loads(request.body)
        assert body == {"model": "demo", "input": caption}
        answer = api.post(request.path, json=body).json()
        assert answer["usage"]["prompt_tokens"] == CONTEXT


def test_the_padded_system_is_sent_full_captions() -> None:
    sent = compare.requests_for(targets.PADDED, targets.CAPTION, DEMO, 4)
    lengths = {tokens(json.loads(request.body)["input"]) for request in islice(sent, 50)}
    assert lengths == {CONTEXT}
    ours = compare.requests_for(targets.OURS, targets.CAPTION, DEMO, 4)
    assert list(islice(ours, 5)) == list(islice(KINDS["rest-text"]("demo", 4), 5))


def test_photos_are_alike_every_time() -> None:
    made = photos(8)
    assert len(set(made)) == 8
    photos.cache_clear()
    assert photos(8) == made
    for photo in made:
        with Image.open(BytesIO(photo)) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (640, 480), "RGB")


@pytest.mark.parametrize("kind", OFFERED)
def test_the_service_answers_every_kind(api: GatewayClient, kind: str) -> None:
    target = Target(api.base_url.netloc.decode(), api.grpc_address, "demo")
    measured = loops.measure(target, requests(kind, "demo"), concurrency=2, seconds=0.2)
    assert not measured.errors
    assert len(measured.latencies) >= 2 * loops.MIN_ANSWERS
    assert measured.per_second > 0
    figures = measured.values()
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]


@pytest.mark.parametrize("kind", ["rest-text", "rest-image", "rest-image-base64", "zero-shot"])
def test_the_only_model_need_not_be_named(api: GatewayClient, kind: str) -> None:
    request = next(requests(kind, ""))
    headers = {"content-type": request.content_type}
    answer = api.post(request.path, content=request.body, headers=headers)
    assert (answer.status_code, answer.json()["model"]) == (200, "demo")
    assert "model" not in f"{request.path}{request.body[:100]!r}"


def test_errors_are_counted(api: GatewayClient) -> None:
    target = Target(api.base_url.netloc.decode(), api.grpc_address, "no-such-model")
    for kind in ("rest-text", "grpc-text"):
        measured = loops.measure(target, requests(kind, target.model), concurrency=1, seconds=0.1)
        assert measured.errors
        assert not measured.latencies
        assert measured.values()["errors"] == measured.errors.total()


def first_bodies(kind: str, seed: int) -> Iterator[bytes]:
    return (request.body for request in islice(KINDS[kind]("demo", seed), 5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_repeats_the_requests(kind: str) -> None:
    assert list(first_bodies(kind, 1)) == list(first_bodies(kind, 1))
    assert list(first_bodies(kind, 1)) != list(first_bodies(kind, 2))


def test_the_mix_holds_what_its_docstring_says() -> None:
    paths = [request.path for request in islice(KINDS["mixed"]("demo", 0), 10)]
    names = [Path(path.partition("?")[0]).name for path in paths]
    assert [names.count(name) for name in ("embeddings", "image", "zero-shot")] == [6, 3, 1]
