"""Every case through REST and through gRPC, to the same process: one answer."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from openclip_api.v1 import clip_pb2 as pb
from openclip_api.v1 import clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import SAMPLES, GatewayFactory
from tests.items import RED_CIRCLE, b64, data_url

CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 413: "INVALID_ARGUMENT"}

LABEL_SET = """
name: shapes
labels:
  - name: circle
    names: [circle, disc]
  - star
  - triangle
templates: general
"""

STAR = (SAMPLES / "black-star.png").read_bytes()
SQUARE = (SAMPLES / "green-square.png").read_bytes()
LONG = " ".join(["word"] * 200)
TOO_LONG = "a" * 5_001


@dataclass(frozen=True)
class Case:
    """One request in both forms."""

    name: str
    body: dict[str, Any]
    message: Any
    own_words: bool = False  # REST's schema refuses it before the engine sees it, in its words


def picture(data: bytes) -> dict[str, str]:
    return {"image": b64(data)}


def embed(name: str, *items: str | bytes, own_words: bool = False, **fields: Any) -> Case:
    """Strings are texts, bytes are images."""
    body = fields | {
        "input": [picture(each) if isinstance(each, bytes) else each for each in items]
    }
    options = dict(fields)
    if options.pop("on_error", "fail") == "skip":
        options["skip_errors"] = True
    return Case(f"embed-{name}", body, pb.EmbedRequest(input=contents(items), **options), own_words)


def classify(name: str, *images: bytes, own_words: bool = False, **fields: Any) -> Case:
    options = dict(fields)
    if isinstance(options.get("templates"), str):
        options["template_set"] = options.pop("templates")
    body = fields | {"images": [b64(each) for each in images]}
    message = pb.ClassifyRequest(images=contents(images), **options)
    return Case(f"classify-{name}", body, message, own_words)


def similarity(
    name: str, texts: list[str], *images: bytes, own_words: bool = False, **fields: Any
) -> Case:
    body = fields | {"texts": texts, "images": [b64(each) for each in images]}
    message = pb.SimilarityRequest(texts=texts, images=contents(images), **fields)
    return Case(f"similarity-{name}", body, message, own_words)


def rerank(
    name: str, query: str | bytes, *documents: str | bytes, own_words: bool = False, **fields: Any
) -> Case:
    [first, *others] = [
        picture(each) if isinstance(each, bytes) else each for each in (query, *documents)
    ]
    [asked] = contents([query])
    message = pb.RerankRequest(query=asked, documents=contents(documents), **fields)
    return Case(
        f"rerank-{name}", fields | {"query": first, "documents": others}, message, own_words
    )


def contents(items: Any) -> list[pb.Item]:
    return [
        pb.Item(image=each) if isinstance(each, bytes) else pb.Item(text=each) for each in items
    ]


def by_url(name: str, url: str, **fields: Any) -> Case:
    """An image by what gRPC calls `image_url` and REST `image`."""
    message = pb.EmbedRequest(input=[pb.Item(text="a"), pb.Item(image_url=url)])
    return Case(f"embed-{name}", {"input": ["a", {"image": url}]}, message, **fields)


LABELS = ["red circle", "black star", "green square"]

GOOD = [
    embed("text", "a red circle"),
    embed("texts", "a red circle", "a black star", "ein roter Kreis", "赤い丸 ✨"),
    embed("same-text-twice", "a star", "a star"),
    embed("image", RED_CIRCLE),
    embed("images", RED_CIRCLE, STAR, RED_CIRCLE),
    embed("mixed", RED_CIRCLE, "a star", STAR, "a circle"),
    embed("cut-text", "short", LONG),
    embed("dimensions-1", "a star", dimensions=1),
    embed("dimensions-16", "a star", RED_CIRCLE, dimensions=16),
    embed("dimensions-all", "a star", dimensions=64),
    embed("dimensions-0", "a star", dimensions=0),
    embed("model", "a star", model="demo"),
    embed("alias", "a star", model="clip"),
    embed("not-truncated", "a star", truncate=False),
    embed("blank-text", " \t "),
    embed("skip-nothing", "a star", on_error="skip"),
    embed("skip-bad", "a star", b"no picture", RED_CIRCLE, TOO_LONG, on_error="skip"),
    embed("skip-long", "a star", LONG, on_error="skip", truncate=False),
    embed("skip-empty-text", "a star", "", on_error="skip"),
    embed("skip-all", b"no picture", on_error="skip"),
    by_url("data-url", data_url(RED_CIRCLE)),
    by_url("base64", b64(STAR)),
    Case(
        "embed-text-that-looks-like-an-image",
        {"input": [{"text": data_url(b"x")}]},
        pb.EmbedRequest(input=[pb.Item(text=data_url(b"x"))]),
    ),
    classify("labels", RED_CIRCLE, labels=LABELS),
    classify("images", RED_CIRCLE, STAR, SQUARE, labels=LABELS, model="demo"),
    classify("alias", RED_CIRCLE, labels=LABELS, model="clip"),
    classify("top-k", RED_CIRCLE, labels=LABELS, top_k=2),
    classify("top-k-over", RED_CIRCLE, labels=LABELS, top_k=100),
    classify("templates", STAR, labels=LABELS, templates=["a {}.", "{} drawn"]),
    classify("template-set", STAR, labels=LABELS, templates="photo"),
    classify("label-set", STAR, RED_CIRCLE, label_set="shapes"),
    classify("cut-label", RED_CIRCLE, labels=["star", LONG]),
    classify("same-label-twice", RED_CIRCLE, labels=["star", "star", "circle"]),
    similarity("one", ["a circle"], RED_CIRCLE),
    similarity("several", ["a circle", "a star", LONG], RED_CIRCLE, STAR),
    similarity("alias", ["a circle"], RED_CIRCLE, model="clip"),
    rerank("texts", "a circle", "a disc", "a star", "a square"),
    rerank("images", "a circle", STAR, RED_CIRCLE, SQUARE),
    rerank("by-image", STAR, "a circle", RED_CIRCLE, "a star", model="demo"),
    rerank("top-n", "a circle", STAR, RED_CIRCLE, "a disc", top_n=2),
    rerank("top-n-over", "a circle", STAR, RED_CIRCLE, top_n=9),
    rerank("equal-documents", "a circle", "a star", "a star", LONG),
]

BAD = [
    embed("unknown-model", "a", model="none"),
    embed("dimensions-over", "a", dimensions=65),
    embed("nothing", own_words=True),
    embed("empty-text", "a", ""),
    embed("no-picture", "a", b"no picture"),
    embed("half-a-picture", RED_CIRCLE[: len(RED_CIRCLE) // 2]),
    embed("empty-image", b""),
    embed("long-model", "a", model="m" * 200),
    embed("not-cut", "a", LONG, truncate=False),
    embed("too-many", *(["a"] * 21)),
    embed("too-many-skipped", *(["a"] * 21), on_error="skip"),
    embed("too-many-characters", "a", TOO_LONG),
    embed("picture-too-large", b"x" * 40_001),
    embed("body-too-large", *(["a" * 4_900] * 26)),
    by_url("not-fetched", "https://example.org/a.png"),
    by_url("wrong-data-url", "data:text/plain,hello"),
    by_url("wrong-base64", "!!!"),
    by_url("empty-url", ""),
    Case(
        "embed-neither",
        {"input": ["a", {}]},
        pb.EmbedRequest(input=[pb.Item(text="a"), pb.Item()]),
        own_words=True,
    ),
    classify("unknown-model", RED_CIRCLE, labels=LABELS, model="none"),
    classify("neither", RED_CIRCLE),
    classify("both", RED_CIRCLE, labels=LABELS, label_set="shapes"),
    classify("unknown-set", RED_CIRCLE, label_set="none"),
    classify("set-and-templates", RED_CIRCLE, label_set="shapes", templates=["a {}"]),
    classify("unknown-templates", RED_CIRCLE, labels=LABELS, templates="none"),
    classify("template-in-place-of-a-name", RED_CIRCLE, labels=LABELS, templates="a {}"),
    classify("long-template", RED_CIRCLE, labels=LABELS, templates=["{}", TOO_LONG]),
    classify("template-without-a-place", RED_CIRCLE, labels=LABELS, templates=["{}", "a"]),
    classify("empty-label", RED_CIRCLE, labels=["a", ""], own_words=True),
    classify("too-many-labels", RED_CIRCLE, labels=[str(number) for number in range(31)]),
    classify("too-many-prompts", RED_CIRCLE, labels=["a"] * 30, templates=["{}", "a {}"]),
    classify("long-label", RED_CIRCLE, labels=["a", TOO_LONG]),
    classify("no-picture", RED_CIRCLE, b"no picture", labels=LABELS),
    classify("no-images", labels=LABELS, own_words=True),
    classify("top-k-0", RED_CIRCLE, labels=LABELS, top_k=0, own_words=True),
    similarity("unknown-model", ["a"], RED_CIRCLE, model="none"),
    similarity("no-texts", [], RED_CIRCLE, own_words=True),
    similarity("no-images", ["a"], own_words=True),
    similarity("no-picture", ["a"], RED_CIRCLE, b"no picture"),
    similarity("empty-text", ["a", ""], RED_CIRCLE, own_words=True),
    similarity("long-text", ["a", TOO_LONG], RED_CIRCLE),
    similarity("too-many", ["a"] * 20, RED_CIRCLE),
    similarity("too-many-texts", ["a"] * 21, RED_CIRCLE),
    rerank("unknown-model", "a", "b", model="none"),
    rerank("no-documents", "a", own_words=True),
    rerank("top-n-0", "a", "b", top_n=0, own_words=True),
    rerank("bad-query", b"no picture", "b"),
    rerank("long-query", TOO_LONG, "b"),
    rerank("bad-document", "a", "b", b"no picture"),
    rerank("empty-document", "a", "b", ""),
    rerank("too-many", "a", *(["b"] * 21)),
    Case(
        "rerank-no-query",
        {"documents": ["a"]},
        pb.RerankRequest(documents=[pb.Item(text="a")]),
        own_words=True,
    ),
]

PATHS = {
    pb.EmbedRequest: ("/v1/embeddings", "Embed"),
    pb.ClassifyRequest: ("/v1/zero-shot", "Classify"),
    pb.SimilarityRequest: ("/v1/similarity", "Similarity"),
    pb.RerankRequest: ("/v1/rerank", "Rerank"),
}


@dataclass(frozen=True)
class Both:
    """The two edges of one process."""

    rest: httpx.Client
    stub: Any


@pytest.fixture(scope="module")
def both(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Both]:
    folder: Path = tmp_path_factory.mktemp("label_sets")
    (folder / "shapes.yaml").write_text(LABEL_SET)
    with (
        start_gateway(
            triton_address=triton.addresses.grpc,
            label_sets=folder,
            model_aliases=json.dumps({"clip": "demo"}),
            max_items=20,
            max_labels=30,
            max_prompts=40,
            max_text_characters=5_000,
            max_image_bytes=40_000,
            max_body_bytes=120_000,
        ) as rest,
        grpc.insecure_channel(rest.grpc_address) as channel,
    ):
        yield Both(rest, clip_pb2_grpc.ClipServiceStub(channel))


def asked(both: Both, case: Case) -> tuple[httpx.Response, Any]:
    """REST's response, and gRPC's call with its outcome."""
    path, method = PATHS[type(case.message)]
    response = both.rest.post(path, json=case.body)
    try:
        return response, getattr(both.stub, method)(case.message)
    except grpc.RpcError as error:
        return response, error


def test_names_tell_cases_apart() -> None:
    names = [case.name for case in [*GOOD, *BAD]]
    assert len(names) == len(set(names)) >= 40


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_the_same_answer(both: Both, case: Case) -> None:
    response, message = asked(both, case)
    assert not isinstance(message, grpc.RpcError), message
    assert response.status_code == httpx.codes.OK, response.text
    answer = response.json()
    assert message.model == answer["model"]
    assert message.fingerprint == response.headers["x-model-fingerprint"]
    assert message.usage.tokens == answer["usage"]["prompt_tokens"]
    assert message.usage.images == answer["usage"]["num_images"]
    match message:
        case pb.EmbedResponse():
            compare_embeddings(message, answer)
        case pb.ClassifyResponse():
            compare_predictions(message, answer)
        case pb.SimilarityResponse():
            compare_similarity(message, answer)
        case pb.RerankResponse():
            pairs = [(each.index, each.relevance_score) for each in message.results]
            assert pairs == [(each["index"], each["relevance_score"]) for each in answer["results"]]
            assert message.truncated == answer.get("truncated", False)


def compare_embeddings(message: pb.EmbedResponse, answer: dict[str, Any]) -> None:
    assert len(message.results) == len(answer["data"])
    for result, wanted in zip(message.results, answer["data"], strict=True):
        if result.HasField("error"):
            error = wanted["error"]
            told = (result.error.code, result.error.message, result.error.param)
            assert told == (error["code"], error["message"], error["param"])
            continue
        vector = np.frombuffer(result.embedding.vector, "<f4")
        assert len(vector) == message.dimensions
        assert vector.tolist() == np.array(wanted["embedding"], np.float32).tolist()
        assert result.embedding.truncated == wanted.get("truncated", False)


def compare_predictions(message: pb.ClassifyResponse, answer: dict[str, Any]) -> None:
    predictions = [
        [(each.label, each.index, each.score, each.cosine) for each in result.predictions]
        for result in message.results
    ]
    assert predictions == [
        [tuple(each[key] for key in ("label", "index", "score", "cosine")) for each in of_image]
        for of_image in (result["predictions"] for result in answer["results"])
    ]
    assert message.truncated == answer.get("truncated", False)


def compare_similarity(message: pb.SimilarityResponse, answer: dict[str, Any]) -> None:
    for name in ("cosine", "logits_per_image", "logits_per_text"):
        assert [list(row.values) for row in getattr(message, name)] == answer[name]
    cut = [index for index, each in enumerate(message.truncated) if each]
    assert cut == answer.get("truncated", [])


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_the_same_error(both: Both, case: Case) -> None:
    response, raised = asked(both, case)
    assert isinstance(raised, grpc.RpcError), raised
    assert response.status_code in CODES, response.text
    error = response.json()["error"]
    trailing = {key: str(value) for key, value in raised.trailing_metadata()}
    assert raised.code().name == CODES[response.status_code]
    assert trailing["error-code"] == error["code"]
    assert trailing.get("error-param") == error["param"]
    assert trailing.get("retry-after") == response.headers.get("retry-after")
    if case.own_words:
        assert raised.details()
    else:
        assert raised.details() == error["message"]


def test_the_same_models(both: Both) -> None:
    answer = both.rest.get("/v1/models").json()["data"]
    models = both.stub.ListModels(pb.ListModelsRequest()).models
    names = [field.name for field in pb.Model.DESCRIPTOR.fields if field.name != "gate_passed"]
    assert models
    for model, wanted in zip(models, answer, strict=True):
        for name in names:
            value = getattr(model, name)
            several = name in {"token_lengths", "aliases", "triton_models"}
            assert (list(value) if several else value) == wanted[name.removeprefix("is_")], name
        assert wanted["aliases"] == ["clip"]
        assert wanted["default"] is True
        assert model.gate_passed == wanted["gate"]["passed"]


def test_the_same_request_id_is_given_back(both: Both) -> None:
    for offered, kept in (("mine-1.A_b", True), ("not plain", False), ("a" * 129, False)):
        response = both.rest.get("/v1/models", headers={"x-request-id": offered})
        sent = (("x-request-id", offered),)
        _, call = both.stub.ListModels.with_call(pb.ListModelsRequest(), metadata=sent)
        told = dict(call.trailing_metadata())["x-request-id"]
        assert (told == offered) == (response.headers["x-request-id"] == offered) == kept
