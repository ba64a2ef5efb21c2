"""Clients that people already have work unchanged, and their own request bodies are answered."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from pydantic import BaseModel, SecretStr

from gateway.rest.endpoints.cohere_embed import CohereEmbedRequest
from gateway.rest.endpoints.embeddings import EmbeddingsRequest
from gateway.rest.endpoints.rerank import CohereRerankRequest, RerankRequest
from gateway.rest.endpoints.similarity import SimilarityRequest
from gateway.rest.endpoints.zero_shot import ZeroShotRequest
from gateway.rest.intake import INLINE_BYTES
from tests.conftest import SAMPLES
from tests.items import encoded, sample, vectors

TEXTS = ["a photo of a red circle.", "a blue star"]


RED_CIRCLE = sample("red-circle.png")


def uncompressed(path: Path) -> bytes:
    with Image.open(path) as image:
        return encoded(image, "BMP")


@pytest.fixture
def client(api: httpx.Client) -> Iterator[openai.OpenAI]:
    url = f"{api.base_url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


class TestOpenAI:
    def test_a_string_and_a_list(self, client: openai.OpenAI, api: httpx.Client) -> None:
        alone = client.embeddings.create(model="demo", input=TEXTS[0])
        both = client.embeddings.create(model="demo", input=TEXTS)
        assert [entry.index for entry in both.data] == [0, 1]
        expected = vectors(api, input=TEXTS)
        np.testing.assert_allclose([e.embedding for e in both.data], expected, atol=1e-6)
        np.testing.assert_allclose(alone.data[0].embedding, expected[0], atol=1e-6)
        assert alone.model == "demo"
        assert alone.usage.prompt_tokens == alone.usage.total_tokens == 9

    def test_it_asks_for_base64_and_floats_are_the_same(self, client: openai.OpenAI) -> None:
        raw = client.embeddings.with_raw_response.create(model="demo", input=TEXTS[0])
        assert isinstance(raw.http_response.json()["data"][0]["embedding"], str)
        floats = client.embeddings.create(model="demo", input=TEXTS[0], encoding_format="float")
        np.testing.assert_allclose(
            raw.parse().data[0].embedding, floats.data[0].embedding, atol=1e-7
        )

    def test_dimensions(self, client: openai.OpenAI) -> None:
        whole = client.embeddings.create(model="demo", input=TEXTS[0]).data[0].embedding
        cut = client.embeddings.create(model="demo", input=TEXTS[0], dimensions=8).data[0].embedding
        expected = np.array(whole[:8]) / np.linalg.norm(whole[:8])
        np.testing.assert_allclose(cut, expected, atol=1e-6)

    def test_errors_are_the_classes_that_openai_raises(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.embeddings.create(model="text-embedding-3-small", input="x")
        assert unknown.value.code == "model_not_found"
        assert unknown.value.param == "model"
        for empty in ("", [], [""]):
            with pytest.raises(openai.BadRequestError) as bad:
                client.embeddings.create(model="demo", input=empty)
            assert bad.value.param is not None
            assert bad.value.param.startswith("input")
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="demo", input="x", dimensions=10_000)
        with pytest.raises(openai.BadRequestError, match="token ids"):
            client.embeddings.create(model="demo", input=[[1, 2, 3]])

    def test_as_many_inputs_as_openai_takes(self, client: openai.OpenAI) -> None:
        texts = [f"a photo of {number} stars" for number in range(2_048)]
        answer = client.embeddings.create(model="demo", input=texts)
        assert [entry.index for entry in answer.data] == list(range(2_048))
        for place in (0, 1_000, 2_047):
            alone = client.embeddings.create(model="demo", input=texts[place]).data[0].embedding
            np.testing.assert_allclose(answer.data[place].embedding, alone, atol=1e-5)
        with pytest.raises(
            openai.APIStatusError, match=r"2,049 items; the limit .* is 2,048"
        ) as no:
            client.embeddings.create(model="demo", input=[*texts, "one more"])
        assert (no.value.status_code, no.value.code) == (413, "too_large")
        assert no.value.param == "input"

    def test_models(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["demo"]
        assert client.models.retrieve("demo").owned_by == "openclip-triton"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nvidia/other")


def test_langchain(api: httpx.Client) -> None:
    from langchain_openai import OpenAIEmbeddings  # which imports for seconds

    expected = vectors(api, input=TEXTS)
    many = [f"{number} squares" for number in range(1_000)]
    with httpx.Client() as http_client:
        embeddings = OpenAIEmbeddings(
            model="demo",
            base_url=f"{api.base_url}/v1",
            api_key=SecretStr("none"),
            check_embedding_ctx_length=False,
            http_client=http_client,
        )
        np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, atol=1e-6)
        np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), expected[0], atol=1e-6)
        found = embeddings.embed_documents(many)
    assert len(found) == 1_000
    np.testing.assert_allclose(found[999], vectors(api, input=many[999:])[0], atol=1e-5)


class TestOthers:
    """Bodies as the documentation of other services shows them."""

    def test_nv_clip(self, api: httpx.Client, start_gateway: Any, triton: Any) -> None:
        body = {
            "input": ["The quick brown fox jumped over the lazy dog", RED_CIRCLE],
            "model": "nvidia/nvclip",
            "encoding_format": "float",
        }
        assert api.post("/v1/embeddings", json=body).status_code == 404
        aliases = '{"nvidia/nvclip": "demo"}'
        with start_gateway(triton_address=triton.addresses.grpc, model_aliases=aliases) as aliased:
            answer = aliased.post("/v1/embeddings", json=body).json()
            assert aliased.get("/v1/models/nvidia/nvclip").json()["id"] == "demo"
        assert [entry["object"] for entry in answer["data"]] == ["embedding"] * 2
        assert answer["model"] == "demo"
        assert answer["usage"] == {"prompt_tokens": 11, "total_tokens": 11, "num_images": 1}
        expected = vectors(api, input=body["input"])
        found = [entry["embedding"] for entry in answer["data"]]
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_infinity(self, api: httpx.Client) -> None:
        body = {
            "model": "demo",
            "encoding_format": "float",
            "user": "string",
            "input": [RED_CIRCLE, sample("blue-star.jpg")],
            "modality": "image",
        }
        answer = api.post("/v1/embeddings", json=body).json()
        assert answer["object"] == "list"
        assert answer["id"].startswith("embd-")
        assert answer["created"] > 1_700_000_000
        np.testing.assert_allclose(
            [entry["embedding"] for entry in answer["data"]],
            vectors(api, input=[{"image": each} for each in body["input"]]),
            atol=1e-6,
        )
        text = {"input": RED_CIRCLE, "modality": "text", "model": "demo"}
        assert api.post("/v1/embeddings", json=text).json()["usage"]["num_images"] == 0

    def test_infinity_with_an_url(self, api: httpx.Client) -> None:
        body = {"model": "demo", "input": ["http://example.com/cat.jpg"], "modality": "image"}
        error = api.post("/v1/embeddings", json=body)
        assert error.status_code == 400
        assert error.json()["error"]["param"] == "input[0]"
        assert "URL" in error.json()["error"]["message"]

    def test_jina(self, api: httpx.Client) -> None:
        body = {
            "model": "demo",
            "normalized": True,
            "embedding_type": "float",
            "dimensions": 32,
            "task": "retrieval.query",
            "input": [
                {"text": "A beautiful sunset over the beach"},
                {"image": RED_CIRCLE.partition(",")[2]},
            ],
        }
        answer = api.post("/v1/embeddings", json=body).json()
        found = np.array([entry["embedding"] for entry in answer["data"]])
        assert found.shape == (2, 32)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        signs = (found > 0).astype(np.uint8)
        for kind, shift in (("ubinary", 0), ("binary", 128)):
            packed = vectors(api, **(body | {"embedding_type": kind}))
            np.testing.assert_array_equal(packed + shift, np.packbits(signs, axis=1))

    def test_jina_rerank(self, api: httpx.Client) -> None:
        body: dict[str, Any] = {
            "model": "demo",
            "query": "a photo of a red circle.",
            "documents": ["a blue star", {"image": RED_CIRCLE}, {"text": "a red circle"}],
            "top_n": 2,
            "return_documents": True,
        }
        answer = api.post("/v1/rerank", json=body).json()
        scores = [result["relevance_score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        assert {result["index"] for result in answer["results"]} == {1, 2}
        for result in answer["results"]:
            given = body["documents"][result["index"]]
            assert result["document"] == given
        query, *documents = vectors(api, input=[body["query"], *body["documents"]])
        expected = sorted((float(query @ each) for each in documents), reverse=True)[:2]
        np.testing.assert_allclose(scores, expected, atol=1e-6)

    @pytest.mark.parametrize("key", ["bytes", "url"])
    def test_langchains_jina(self, api: httpx.Client, key: str) -> None:
        body = {"model": "demo", "input": [{key: RED_CIRCLE}, {key: RED_CIRCLE.partition(",")[2]}]}
        found = vectors(api, **body, late_chunking=False, truncation=True)
        expected = vectors(api, input=RED_CIRCLE)
        np.testing.assert_allclose(found, expected[[0, 0]], atol=1e-6)

    @pytest.mark.parametrize("field", ["truncation", "truncate"])
    def test_what_is_not_to_be_cut(self, api: httpx.Client, field: str) -> None:
        body = {"input": "word " * 200}
        error = api.post("/v1/embeddings", json=body | {field: False}).json()["error"]
        assert error["code"] == "context_length_exceeded"
        [entry] = api.post("/v1/embeddings", json=body | {field: True}).json()["data"]
        assert entry["truncated"] is True

    def test_infinitys_rerank(self, api: httpx.Client) -> None:
        body = {"query": "a circle", "documents": ["a star", "a disc"], "model": "demo"}
        sent = body | {"return_documents": False, "raw_scores": False, "top_n": None}
        assert api.post("/v1/rerank", json=sent).status_code == 200
        error = api.post("/v1/rerank", json=sent | {"raw_scores": True}).json()["error"]
        assert error["param"] == "raw_scores"
        assert "cosine" in error["message"]

    def test_infinitys_client(self, api: httpx.Client) -> None:
        body = {"input": TEXTS, "model": "default/not-specified", "dimensions": 0}
        answer = api.post("/embeddings", json=body | {"modality": "text"}).json()
        assert answer["model"] == "demo"
        found = [entry["embedding"] for entry in answer["data"]]
        np.testing.assert_allclose(found, vectors(api, input=TEXTS), atol=1e-6)
        image = (SAMPLES / "red-circle.png").read_bytes()
        whole = api.post("/v1/embeddings/image?dimensions=0", content=image).json()
        assert len(whole["data"][0]["embedding"]) == len(found[0])
        [model] = api.get("/models").json()["data"]
        assert model["id"] == "demo"
        assert model["owned_by"] == "infinity"  # which its client insists on
        assert model["stats"] == {}

    def test_documents_come_back_in_each_ones_shape(self, api: httpx.Client) -> None:
        documents = ["a star", {"text": "a disc"}, {"image": RED_CIRCLE}]
        body = {"query": "a circle", "documents": documents, "return_documents": True}
        plain = {0: "a star", 1: "a disc", 2: RED_CIRCLE}
        own = api.post("/v1/rerank", json=body).json()["results"]
        cohere = api.post("/v2/rerank", json=body).json()["results"]
        infinity = api.post("/rerank", json=body).json()["results"]
        assert own == cohere
        assert {each["index"]: each["document"] for each in infinity} == plain
        for each in own:
            [kind] = each["document"]
            assert kind == ("image" if each["index"] == 2 else "text")
            assert each["document"][kind] == plain[each["index"]]

    def test_coheres_rerank(self, api: httpx.Client) -> None:
        body = {"model": "demo", "query": "a circle", "documents": ["a star", "a disc"]}
        own = api.post("/v1/rerank", json=body).json()
        answer = api.post("/v2/rerank", json=body | {"max_tokens_per_doc": 4096}).json()
        assert answer["results"] == own["results"]
        assert answer["meta"] == {
            "api_version": {"version": "2"},
            "tokens": {"input_tokens": own["usage"]["prompt_tokens"]},
        }
        cut = api.post("/v2/rerank", json=body | {"query": "word " * 200}).json()
        [warning] = cut["meta"]["warnings"]
        assert "cut" in warning

    def test_coheres_embed(self, api: httpx.Client) -> None:
        kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
        body: dict[str, Any] = {"model": "demo", "input_type": "search_query", "truncate": "END"}
        sent = {"texts": TEXTS, "embedding_types": kinds, "output_dimension": 16}
        answer = api.post("/v2/embed", json=body | sent).json()
        found = {kind: np.array(rows) for kind, rows in answer["embeddings"].items()}
        expected = vectors(api, input=TEXTS, dimensions=16)
        np.testing.assert_allclose(found["float"], expected, atol=1e-6)
        for kind, middle in (("int8", 0), ("uint8", 128)):
            scaled = found[kind] - middle
            assert (np.abs(scaled).max(axis=1) == 127).all()
            unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
            assert ((unit * expected).sum(axis=1) > 0.999).all()
        for kind in kinds[1:]:
            own = {"input": TEXTS, "dimensions": 16, "encoding_format": kind}
            data = api.post("/v1/embeddings", json=own).json()["data"]
            assert answer["embeddings"][kind] == [entry["embedding"] for entry in data]
        assert answer["texts"] == TEXTS
        assert answer["meta"]["tokens"] == {"input_tokens": 14}
        text = {"type": "text", "text": TEXTS[0]}
        image = {"type": "image_url", "image_url": {"url": RED_CIRCLE}}
        mixed = {"inputs": [{"content": [text]}, {"content": [image]}]}
        rows = api.post("/v2/embed", json=body | mixed).json()["embeddings"]["float"]
        np.testing.assert_allclose(rows, vectors(api, input=[TEXTS[0], RED_CIRCLE]), atol=1e-6)
        only = api.post("/v2/embed", json=body | {"images": [RED_CIRCLE]}).json()
        np.testing.assert_allclose(only["embeddings"]["float"], [rows[1]], atol=1e-6)
        cut = api.post("/v2/embed", json=body | {"texts": ["word " * 200]}).json()
        assert "cut" in cut["meta"]["warnings"][0]

    @pytest.mark.parametrize(
        ("changed", "param"),
        [
            ({"texts": None}, None),
            ({"images": [RED_CIRCLE]}, None),
            ({"texts": []}, "texts"),
            ({"texts": ["a", ""]}, "texts[1]"),
            ({"texts": None, "images": ["AAAA"]}, "images[0]"),
            ({"texts": None, "inputs": [{"content": []}]}, "inputs[0].content"),
            ({"embedding_types": []}, "embedding_types"),
            ({"embedding_types": ["float64"]}, "embedding_types[0]"),
            ({"embedding_types": ["int8"] * 100}, "embedding_types"),
            ({"truncate": "START"}, "truncate"),
            ({"truncate": "NONE", "texts": ["word " * 200]}, "texts[0]"),
            ({"max_tokens": 31}, "max_tokens"),
            ({"output_dimension": 65}, "output_dimension"),
            ({"output_dimension": 9, "embedding_types": ["float", "binary"]}, "output_dimension"),
            ({"priority": 1}, "priority"),
        ],
    )
    def test_what_coheres_embed_refuses(
        self, api: httpx.Client, changed: dict[str, Any], param: str | None
    ) -> None:
        response = api.post("/v2/embed", json={"texts": ["a"]} | changed)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param

    @pytest.mark.parametrize(
        ("field", "value"),
        [("max_tokens_per_doc", 31), ("max_tokens_per_doc", 0), ("priority", 1), ("top_n", 0)],
    )
    def test_what_coheres_rerank_refuses(self, api: httpx.Client, field: str, value: int) -> None:
        body = {"query": "a circle", "documents": ["a star"], field: value}
        response = api.post("/v2/rerank", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == field

    @pytest.mark.parametrize(
        ("content", "same_as"),
        [
            ("a red circle", "a red circle"),
            ([{"type": "text", "text": "a red circle"}], "a red circle"),
            ([{"type": "image_url", "image_url": {"url": RED_CIRCLE}}], RED_CIRCLE),
        ],
    )
    def test_vllm(self, api: httpx.Client, content: Any, same_as: str) -> None:
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": content}],
            "encoding_format": "float",
        }
        [found] = vectors(api, **body)
        np.testing.assert_allclose(found, vectors(api, input=same_as)[0], atol=1e-6)

    def test_vllm_with_two_things_at_once(self, api: httpx.Client) -> None:
        parts = [
            {"type": "text", "text": "a red circle"},
            {"type": "image_url", "image_url": {"url": RED_CIRCLE}},
        ]
        body = {"model": "demo", "messages": [{"role": "user", "content": parts}]}
        error = api.post("/v1/embeddings", json=body).json()["error"]
        assert error["param"].startswith("messages[0].content")


class TestUploads:
    NAMES = ("red-circle.png", "blue-star.jpg")

    def expected(self, api: httpx.Client) -> np.ndarray:
        return vectors(api, input=[sample(name) for name in self.NAMES])

    def test_a_raw_body(self, api: httpx.Client) -> None:
        for content_type in ("image/png", "application/octet-stream", None):
            response = api.post(
                "/v1/embeddings/image",
                content=(SAMPLES / self.NAMES[0]).read_bytes(),
                headers={"content-type": content_type} if content_type else {},
            )
            [entry] = response.json()["data"]
            np.testing.assert_allclose(entry["embedding"], self.expected(api)[0], atol=1e-6)
            assert response.headers["x-model-fingerprint"]

    def test_files_and_a_packed_answer(self, api: httpx.Client) -> None:
        files = [("files", (name, (SAMPLES / name).read_bytes())) for name in self.NAMES]
        accept = {"accept": "application/octet-stream"}
        url = "/v1/embeddings/image?model=demo&dimensions=16"
        packed = api.post(url, files=files, headers=accept)
        assert packed.headers["x-embedding-shape"] == "2,16"
        found = np.frombuffer(packed.content, dtype="<f4").reshape(2, 16)
        whole = self.expected(api)[:, :16]
        expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        again = api.post(url, files=files).json()
        np.testing.assert_allclose([e["embedding"] for e in again["data"]], expected, atol=1e-6)

    @pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
    def test_quantized(self, api: httpx.Client, kind: str) -> None:
        content = (SAMPLES / self.NAMES[0]).read_bytes()
        url = f"/v1/embeddings/image?encoding_format={kind}"
        [entry] = api.post(url, content=content).json()["data"]
        [same] = vectors(api, input=sample(self.NAMES[0]), encoding_format=kind)
        assert entry["embedding"] == same.tolist()
        if "binary" in kind:
            error = api.post(f"{url}&dimensions=12", content=content).json()["error"]
            assert (error["code"], error["param"]) == ("invalid_request", "dimensions")

    def test_fields_may_stand_in_the_form(self, api: httpx.Client) -> None:
        files = [("image", (SAMPLES / name).read_bytes()) for name in self.NAMES]
        fields = {"model": "demo", "dimensions": "16"}
        answer = api.post("/v1/embeddings/image", files=files, data=fields).json()
        assert [len(entry["embedding"]) for entry in answer["data"]] == [16, 16]

    def test_a_form_that_ends_early(self, api: httpx.Client) -> None:
        parts = (SAMPLES / name for name in self.NAMES)
        body = b"".join(
            b'--b\r\ncontent-disposition: form-data; name="files"; filename="x"\r\n\r\n%b\r\n'
            % part.read_bytes()
            for part in parts
        )
        headers = {"content-type": "multipart/form-data; boundary=b"}
        for ending, status in ((b"--b--\r\n", 200), (b"--b--", 200), (b"--b", 400), (b"", 400)):
            response = api.post("/v1/embeddings/image", content=body + ending, headers=headers)
            assert response.status_code == status, (ending, response.text)
        assert "ends early" in response.json()["error"]["message"]

    @pytest.mark.parametrize(
        ("accept", "packed"),
        [
            ("application/octet-stream", True),
            ("application/json;q=0.5, Application/Octet-Stream; q=1.0", True),
            ("application/octet-stream;q=0, application/json", False),
            ("application/octet-stream-2", False),
        ],
    )
    def test_what_is_accepted(self, api: httpx.Client, accept: str, packed: bool) -> None:
        content = (SAMPLES / self.NAMES[0]).read_bytes()
        response = api.post("/v1/embeddings/image", content=content, headers={"accept": accept})
        assert (response.headers["content-type"] == "application/octet-stream") == packed

    def test_large_files(self, api: httpx.Client) -> None:
        files = [("files", uncompressed(SAMPLES / name)) for name in self.NAMES]
        assert sum(len(file) for _, file in files) > INLINE_BYTES
        answer = api.post("/v1/embeddings/image", files=files).json()
        found = [entry["embedding"] for entry in answer["data"]]
        np.testing.assert_allclose(found, self.expected(api), atol=1e-6)
        none = api.post("/v1/embeddings/image", files=[("file\0s", b"x" * INLINE_BYTES)] * 2)
        assert none.status_code == 400

    @pytest.mark.parametrize(
        ("sent", "status", "said"),
        [
            ({"content": b""}, 400, "empty"),
            ({"content": b"no image"}, 400, "not an image"),
            ({"content": b"{}", "headers": {"content-type": "application/json"}}, 400, "json"),
            ({"files": [("files", ("x.png", b"junk"))]}, 400, "not an image"),
            ({"files": [("files", ("x.png", b"junk"))] * 2_049}, 413, "GATEWAY_MAX_ITEMS"),
            ({"data": {"image": "x"}, "files": []}, 400, "x-www-form-urlencoded"),
            (
                {"content": b"--x", "headers": {"content-type": "multipart/form-data"}},
                400,
                "boundary",
            ),
            (
                {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
                400,
                "form",
            ),
            (
                {
                    "content": b"--b--",
                    "headers": {"content-type": "multipart/form-data;boundary=b"},
                },
                400,
                "files: the form holds no file",
            ),
            ({"files": [("files", ("x.png", b"junk"))], "data": {"colour": "x"}}, 400, "'colour'"),
            (
                {
                    "files": [("files", ("x.png", b"junk"))],
                    "data": {"model": "demo"},
                    "params": {"model": "demo"},
                },
                400,
                "given twice",
            ),
            (
                {"content": b"x", "params": [("model", "demo"), ("model", "demo")]},
                400,
                "given twice",
            ),
            ({"content": b"x", "params": {"dimensions": "many"}}, 400, "dimensions"),
            ({"content": b"x", "params": {"colour": "red"}}, 400, "colour"),
            ({"content": b"x", "params": {"model": "none"}}, 404, "not served"),
        ],
    )
    def test_bad_uploads(
        self, api: httpx.Client, sent: dict[str, Any], status: int, said: str
    ) -> None:
        response = api.post("/v1/embeddings/image", **sent)
        assert response.status_code == status, response.text
        assert said in response.json()["error"]["message"]


def test_on_error_skip(api: httpx.Client) -> None:
    body = {
        "input": [
            "a red circle",
            {"image": "%%%"},
            RED_CIRCLE,
            {"text": "word " * 200},
            "data:image/png;base64,AAAA",
            "x" * 40_000,
            "",
            {"text": ""},
            {"image": ""},
        ],
        "on_error": "skip",
        "truncate": False,
    }
    answer = api.post("/v1/embeddings", json=body).json()
    kinds = [entry["object"] for entry in answer["data"]]
    assert kinds == ["embedding", "error", "embedding", *["error"] * 6]
    assert [entry["index"] for entry in answer["data"]] == list(range(9))
    errors = {entry["index"]: entry["error"] for entry in answer["data"] if "error" in entry}
    assert {index: error["param"] for index, error in errors.items()} == {
        index: f"input[{index}]" for index in (1, 3, 4, 5, 6, 7, 8)
    }
    assert errors[3]["code"] == "context_length_exceeded"
    assert answer["usage"]["num_images"] == 1
    expected = vectors(api, input=["a red circle", RED_CIRCLE])
    found = [answer["data"][index]["embedding"] for index in (0, 2)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    failing = api.post("/v1/embeddings", json=body | {"on_error": "fail"})
    assert failing.status_code in (400, 413)


EMBEDDINGS: dict[str, Any] = {"input": "a red circle"}
RERANK: dict[str, Any] = {"query": "a circle", "documents": ["a star", {"image": RED_CIRCLE}]}
ZERO_SHOT: dict[str, Any] = {"image": RED_CIRCLE, "labels": ["a star", "a circle"]}
SIMILARITY: dict[str, Any] = {"image": RED_CIRCLE, "texts": ["a star"]}


@pytest.mark.parametrize(
    ("path", "body", "request_schema"),
    [
        ("/v1/embeddings", EMBEDDINGS, EmbeddingsRequest),
        ("/v1/rerank", RERANK, RerankRequest),
        ("/v2/rerank", RERANK, CohereRerankRequest),
        ("/v2/embed", {"texts": ["a"]}, CohereEmbedRequest),
        ("/v1/zero-shot", ZERO_SHOT, ZeroShotRequest),
        ("/v1/similarity", SIMILARITY, SimilarityRequest),
    ],
)
def test_null_is_the_same_as_nothing(
    api: httpx.Client, path: str, body: dict[str, Any], request_schema: type[BaseModel]
) -> None:
    nothing: dict[str, Any] = dict.fromkeys(request_schema.model_fields)
    response = api.post(path, json=nothing | body)
    assert response.status_code == 200, response.text
    left_out = api.post(path, json=body).json()
    same = {"id", "created"}
    answer = response.json()
    assert {key: answer[key] for key in answer.keys() - same} == {
        key: left_out[key] for key in left_out.keys() - same
    }


def test_an_empty_name_is_the_default_model(api: httpx.Client) -> None:
    for path, body in (
        ("/v1/embeddings", EMBEDDINGS),
        ("/v1/rerank", RERANK),
        ("/v1/zero-shot", ZERO_SHOT),
        ("/v1/similarity", SIMILARITY),
    ):
        response = api.post(path, json=body | {"model": ""})
        assert response.status_code == 200, response.text
        assert response.json()["model"] == "demo"
    image = (SAMPLES / "red-circle.png").read_bytes()
    response = api.post("/v1/embeddings/image?model=", content=image)
    assert response.json()["model"] == "demo"
    assert api.get("/v1/models/").status_code == 404


def test_equal_documents_stay_in_order(api: httpx.Client) -> None:
    for count in range(2, 12):
        documents = [{"text": "b"}] * count
        answer = api.post("/v1/rerank", json={"query": "a", "documents": documents}).json()
        assert [each["index"] for each in answer["results"]] == list(range(count))
        labels = {"image": RED_CIRCLE, "labels": ["cat"] * count}
        [result] = api.post("/v1/zero-shot", json=labels).json()["results"]
        assert [each["index"] for each in result["predictions"]] == list(range(count))


def test_similarity(api: httpx.Client) -> None:
    names = ["red-circle.png", "blue-star.jpg", "green-square.png"]
    images = [sample(name) for name in names]
    texts = ["a red circle", "a blue star"]
    answer = api.post("/v1/similarity", json={"texts": texts, "images": images}).json()
    of_images = vectors(api, input=images)
    of_texts = vectors(api, input=texts)
    cosine = np.array(answer["cosine"])
    np.testing.assert_allclose(cosine, of_images @ of_texts.T, atol=1e-6)
    per_image = np.array(answer["logits_per_image"])
    np.testing.assert_allclose(per_image, np.array(answer["logits_per_text"]).T)
    scale = per_image / cosine
    np.testing.assert_allclose(scale, scale[0, 0])
    assert list(cosine[:2].argmax(axis=1)) == [0, 1]
    assert "truncated" not in answer
    long = api.post("/v1/similarity", json={"texts": ["a", "word " * 200], "image": images[0]})
    assert long.json()["truncated"] == [1]


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1.5", "9" * 12])
def test_a_bad_timeout(api: httpx.Client, value: str) -> None:
    response = api.post(
        "/v1/embeddings", json={"input": "x"}, headers={"x-request-timeout-ms": value}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-request-timeout-ms"


@pytest.mark.parametrize("path", ["/v1/health/live", "/v1/health/ready", "/health", "/v1/health"])
def test_other_names_of_the_probes(api: httpx.Client, path: str) -> None:
    assert api.get(path).status_code == 200
