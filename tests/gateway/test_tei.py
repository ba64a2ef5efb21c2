"""Clients of text-embeddings-inference find its routes, its shapes and its errors."""

import threading
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import Request
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from gateway.errors import TooSlow
from gateway.models.values import Tokens
from gateway.rest.endpoints.tei.problems import problem
from gateway.rest.endpoints.tei.tokens import described
from gateway.telemetry.record import Record
from tests.items import sample, vectors

TEXTS = ["a photo of a red circle.", "a blue star"]
LONG = "word " * 200
RED_CIRCLE = sample("red-circle.png")


@pytest.mark.parametrize("path", ["", "/embed"])
def test_huggingfaces_client_embeds(api: httpx.Client, path: str) -> None:
    url = str(api.base_url).rstrip("/") + path
    client = InferenceClient(url, token="none")  # noqa: S106 - nobody needs one
    expected = vectors(api, input=TEXTS)
    np.testing.assert_allclose(client.feature_extraction(TEXTS), expected, atol=1e-6)
    one = client.feature_extraction(
        TEXTS[0], normalize=True, truncate=True, truncation_direction="right"
    )
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)
    with pytest.raises(HfHubHTTPError) as cut:
        client.feature_extraction(LONG, truncate=False)
    assert cut.value.response.status_code == 413


def test_huggingfaces_client_compares(api: httpx.Client) -> None:
    client = InferenceClient(f"{api.base_url}/similarity", token="none")  # noqa: S106
    found = client.sentence_similarity(TEXTS[0], other_sentences=[TEXTS[1], TEXTS[0], RED_CIRCLE])
    query, *others = vectors(api, input=[TEXTS[0], TEXTS[1], TEXTS[0], RED_CIRCLE])
    np.testing.assert_allclose(found, others @ query, atol=1e-5)


def test_rerank_is_teis_or_infinitys(api: httpx.Client) -> None:
    body = {"query": TEXTS[0], "texts": [TEXTS[1], RED_CIRCLE, TEXTS[0]]}
    ranks = api.post("/rerank", json=body | {"return_text": True, "raw_scores": False}).json()
    assert [each["index"] for each in ranks] == [2, 1, 0]
    assert ranks[0]["text"] == TEXTS[0]
    infinitys = api.post("/rerank", json={"query": TEXTS[0], "documents": body["texts"]}).json()
    assert [each["score"] for each in ranks] == [
        each["relevance_score"] for each in infinitys["results"]
    ]
    assert "text" not in api.post("/rerank", json=body).json()[0]


def test_tokens_there_and_back(api: httpx.Client) -> None:
    sent = {"inputs": ["A photo of a  red circle.", "x" * 500]}
    tokens, long = api.post("/tokenize", json=sent).json()
    assert tokens[0] == {
        "id": 49406, "text": "<start_of_text>", "special": True, "start": None, "stop": None
    }  # fmt: skip
    assert " ".join(each["text"] for each in tokens[1:-1]) == "a photo of a red circle ."
    usage = api.post("/v1/embeddings", json={"input": sent["inputs"]}).json()["usage"]
    assert usage["prompt_tokens"] == len(tokens) + len(long)
    plain = api.post("/tokenize", json=sent | {"add_special_tokens": False}).json()
    assert plain == [[each for each in row if not each["special"]] for row in (tokens, long)]
    ids = [each["id"] for each in tokens]
    assert api.post("/decode", json={"ids": ids}).json() == ["a photo of a red circle ."]
    whole = api.post("/decode", json={"ids": [ids, ids[1:3]], "skip_special_tokens": False}).json()
    unknown = api.post("/decode", json={"ids": [[2**31 - 1], [], [ids[0]], [ids[1], 10**9]]}).json()
    assert unknown == ["", "", "", "a"]
    assert whole == ["<start_of_text>a photo of a red circle . <end_of_text>", "a photo"]


@pytest.mark.parametrize(("count", "threads"), [(20, False), (400, True)])
async def test_many_tokens_do_not_hold_up_other_requests(count: int, threads: bool) -> None:
    loop, seen = threading.get_ident(), set[int]()

    class Tokenizer:
        def described(self, tokens: Tokens) -> list[tuple[int, str, bool]]:
            seen.add(threading.get_ident())
            return [(each, "a", False) for each in tokens.ids.tolist()]

    model = SimpleNamespace(tokenizer=Tokenizer())
    texts = [Tokens(np.ones(4, np.int32), truncated=False)] * count
    rows = await described(model, texts, special=True)  # type: ignore[arg-type]
    assert len(rows) == count
    assert (loop not in seen) is threads


def test_the_rest_of_a_slow_body_is_not_waited_for() -> None:
    request = Request({"type": "http", "state": {"record": Record()}})
    response = problem(TooSlow("the body arrives too slowly"), request)
    assert (response.status_code, response.headers["connection"]) == (408, "close")
    assert int(response.headers["content-length"]) == len(response.body)


def test_info(api: httpx.Client) -> None:
    info = api.get("/info").json()
    [model] = api.get("/v1/models").json()["data"]
    assert info["model_id"] == "demo"
    assert info["model_sha"] == model["fingerprint"]
    assert info["model_dtype"] == "float32"
    assert info["max_input_length"] == model["context_length"]
    assert info["max_client_batch_size"] == 2_048


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": ["a"] * 2_049}, 413, "Validation"),
        ("/embed", {"inputs": LONG, "truncate": False}, 413, "Validation"),
        ("/embed", {"inputs": ["a", f"&#{'1' * 5_000};"]}, 422, "Tokenizer"),
        ("/embed", {"inputs": ["a", ""]}, 422, "Validation"),
        ("/embed", {"inputs": ["data:image/png;base64,AAAA"]}, 422, "Validation"),
        ("/embed", {"inputs": [[1, 2]]}, 422, "Validation"),
        ("/embed", {"inputs": "a", "normalize": False}, 422, "Validation"),
        ("/embed", {"inputs": "a", "truncation_direction": "left"}, 422, "Validation"),
        ("/embed", {"inputs": "a", "prompt_name": "query"}, 422, "Validation"),
        ("/embed", {"inputs": "a", "model": "none"}, 404, "Validation"),
        ("/", {"inputs": []}, 400, "Empty"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty"),
        (
            "/similarity",
            {
                "inputs": {"source_sentence": LONG, "sentences": ["a"]},
                "parameters": {"truncate": False},
            },
            413,
            "Validation",
        ),
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty"),
        ("/rerank", {"query": "a", "texts": [LONG], "truncate": False}, 413, "Validation"),
        ("/tokenize", {"inputs": []}, 400, "Empty"),
        ("/tokenize", {"inputs": "a" * 40_000}, 413, "Validation"),
        ("/decode", {"ids": []}, 400, "Empty"),
        ("/decode", {"ids": [-1]}, 422, "Validation"),
        ("/decode", {"ids": [[1], 2]}, 422, "Validation"),
        ("/decode", {"ids": [2**31]}, 422, "Validation"),
    ],
)
def test_errors_are_teis(
    api: httpx.Client, path: str, body: dict[str, Any], status: int, kind: str
) -> None:
    response = api.post(path, json=body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "error_type"}
    assert response.json()["error_type"] == kind


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/embed", {"inputs": ["a"] * 2_049}, "inputs"),
        ("/embed", {"inputs": ["a", "data:image/png;base64,AAAA"]}, "inputs[1]"),
        ("/embed", {"inputs": ["a", LONG], "truncate": False}, "inputs[1]"),
        ("/embed", {"inputs": ["a", f"&#{'1' * 5_000};"]}, "inputs[1]"),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": ["a"] * 2_049}},
            "inputs.sentences",
        ),
        (
            "/similarity",
            {
                "inputs": {"source_sentence": "a", "sentences": ["b", LONG]},
                "parameters": {"truncate": False},
            },
            "inputs.sentences[1]",
        ),
        ("/rerank", {"query": "a", "texts": ["a"] * 2_049}, "texts"),
        ("/rerank", {"query": LONG, "texts": ["a"], "truncate": False}, "query"),
        ("/rerank", {"query": "a", "texts": ["a", "data:image/png;base64,"]}, "texts[1]"),
    ],
)
def test_errors_name_the_field(
    api: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    message = api.post(path, json=body).json()["error"]
    assert message.startswith(f"{param}: "), message


@pytest.mark.parametrize(
    "body",
    [
        {"query": "a", "texts": [5]},
        {"query": 5, "texts": ["a"]},
        {"texts": ["a"]},
        {"query": "a", "texts": ["a"], "return_documents": True},
        {"query": "a", "texts": None},
    ],
)
def test_a_malformed_rerank_with_texts_has_teis_errors(
    api: httpx.Client, body: dict[str, Any]
) -> None:
    response = api.post("/rerank", json=body)
    assert response.status_code == 422
    assert response.json()["error_type"] == "Validation"


@pytest.mark.parametrize(
    "body",
    [{"query": "a"}, {"query": "a", "documents": []}, {"query": "texts", "documents": '"texts":'}],
)
def test_rerank_without_texts_has_the_services_own_errors(
    api: httpx.Client, body: dict[str, Any]
) -> None:
    response = api.post("/rerank", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "documents"
