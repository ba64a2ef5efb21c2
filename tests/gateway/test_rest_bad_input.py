"""Bad input is a clear 4xx in the one envelope, and the next request is served."""

import gzip
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image

from server.launcher import TritonServer
from tests.conftest import GatewayFactory
from tests.gateway.hostile import png
from tests.items import RED_CIRCLE, data_url, encoded


def huge_png() -> bytes:
    """A whole, valid 200-megapixel PNG: 20,000 x 10,000 grey pixels."""
    return png(20_000, 10_000, 8, 0, data=bytes(20_001) * 10_000)


@pytest.fixture
def embed(api: httpx.Client) -> Callable[..., httpx.Response]:
    def post(**body: Any) -> httpx.Response:
        return api.post("/v1/embeddings", json=body)

    return post


@pytest.fixture
def classify(api: httpx.Client) -> Callable[..., httpx.Response]:
    def post(**body: Any) -> httpx.Response:
        defaults = {"image": data_url(RED_CIRCLE), "labels": ["red circle", "blue star"]}
        return api.post("/v1/zero-shot", json={**defaults, **body})

    return post


@pytest.fixture(autouse=True)
def _next_request_is_served(api: httpx.Client) -> Iterator[None]:
    yield
    response = api.post("/v1/embeddings", json={"model": "demo", "input": "a red circle"})
    assert response.status_code == 200


def assert_refused(
    response: httpx.Response, status: int, *words: str, param: str | None = None
) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    for word in words:
        assert word in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b'{"input": "x"',
        b'{"input": NaN2}',
        b"\xff\xfe",
        b'{"input": "\\ud800"}',  # a lone surrogate
        b'{"input": "\xed\xa0\x80"}',  # the same, as bytes
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=range(10),
)
def test_not_json(api: httpx.Client, body: bytes) -> None:
    for path in ("/v1/embeddings", "/v1/zero-shot"):
        assert_refused(api.post(path, content=body), 400, "not JSON")


def test_a_long_content_type_of_a_form(api: httpx.Client) -> None:
    headers = {"content-type": "multipart/form-data;a=" + ";" * 1_024}
    refused = api.post("/v1/embeddings/image", content=b"a", headers=headers)
    assert_refused(refused, 400, "content-type")


@pytest.mark.parametrize("charset", ["undefined", "idna", "punycode", "utf-7"])
def test_a_charset_that_only_python_knows(api: httpx.Client, charset: str) -> None:
    part = b'--B\r\ncontent-disposition: form-data; name="xn--a"; filename="+2AA-"\r\n\r\nx\r\n'
    kind = {"content-type": f"multipart/form-data; boundary=B; charset={charset}"}
    refused = api.post("/v1/embeddings/image", content=part + b"--B--\r\n", headers=kind)
    assert_refused(refused, 400, "charset")


def test_a_long_part_without_a_file_name(api: httpx.Client) -> None:
    form = b'--B\r\ncontent-disposition: form-data; name="photo"\r\n\r\n%b\r\n--B--\r\n'
    kind = {"content-type": "multipart/form-data; boundary=B"}
    for size in (10, 2_000):
        refused = api.post("/v1/embeddings/image", content=form % bytes(size), headers=kind)
        assert_refused(refused, 400, "'photo'", "filename")


def test_a_form_where_json_is_wanted(api: httpx.Client) -> None:
    for path in ("/v1/embeddings", "/v1/zero-shot", "/v1/similarity", "/v1/rerank"):
        refused = api.post(path, files={"image": b"a picture"})
        assert_refused(refused, 400, "this route takes JSON, and no form")


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"[1, 2]"])
def test_json_that_is_not_an_object(api: httpx.Client, body: bytes) -> None:
    assert_refused(api.post("/v1/embeddings", content=body), 400, "body")


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (5, "input"),
        (None, "input"),
        (True, "input"),
        ([], "input"),
        ("", "input"),
        ({}, "input"),
        ({"video": "x"}, "input"),
        ([5], "input[0]"),
        (["a", ""], "input[1]"),
        (["a", None, "b"], "input[1]"),
        (["a", ["b"]], "input[1]"),
        ([[1, 2, 3]], "input[0]"),  # OpenAI's token ids: of another tokenizer
        (["a", {"text": 5}], "input[1].text"),
        (["a", {"text": ""}], "input[1]"),
        (["a", {"text": "b", "size": 1}], "input[1].size"),
        (["a", {"text": "b", "list": 1}], "input[1].list"),
        ({"image": "AAAA", "<image>": 1}, "input.<image>"),
        (["a", {"text": "b", "image": "AAAA"}], "input[1]"),
        ({"text": "b", "image": "AAAA"}, "input"),
        ({"image": "AAAA", "url": "AAAA"}, "input"),
        (["a", {"bytes": "!"}], "input[1]"),
        (["a", {"url": 5}], "input[1].url"),
        (["a", {"image": ""}], "input[1]"),
        (["a", {"image": "!"}], "input[1]"),
        (["a", "data:image/png;base64,AAAA"], "input[1]"),
        (["a", "data:image/png;base64,A"], "input[1]"),
        (["a", "data:image/svg+xml;utf8,<svg/>"], "input[1]"),
        (["a", {"image": "http://example.com/a.png"}], "input[1]"),
    ],
)
def test_wrong_input(embed: Callable[..., httpx.Response], value: Any, param: str) -> None:
    assert_refused(embed(model="demo", input=value), 400, param=param)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoding_format", "hex"),
        ("encoding_format", 1),
        ("dimensions", -5),
        ("dimensions", "8"),
        ("dimensions", 1.5),
        ("dimensions", True),
        ("dimensions", 10**30),
        ("truncate", "yes"),
        ("truncate", 1),
        ("truncation", "END"),
        ("normalized", False),
        ("normalized", 1),
        ("late_chunking", True),
        ("late_chunking", "no"),
        ("raw_scores", False),  # of rerank
        ("model", 5),
        ("user", 5),
    ],
)
def test_wrong_option(embed: Callable[..., httpx.Response], field: str, value: Any) -> None:
    assert_refused(embed(input="x", **{field: value}), 400, field, param=field)


@pytest.mark.parametrize("kind", ["binary", "ubinary"])
@pytest.mark.parametrize("field", ["encoding_format", "embedding_type"])
def test_signs_that_do_not_fill_their_bytes(
    embed: Callable[..., httpx.Response], field: str, kind: str
) -> None:
    response = embed(input="x", dimensions=12, **{field: kind})
    assert_refused(response, 400, "12 is not a multiple of 8", param="dimensions")
    assert embed(input="x", dimensions=16, **{field: kind}).status_code == 200


@pytest.mark.parametrize("field", ["colour", "list", "text", "<list>"])
def test_unknown_field_is_named(embed: Callable[..., httpx.Response], field: str) -> None:
    response = embed(input="x", **{field: "red"})
    assert_refused(response, 400, f"{field}: unknown field", param=field)


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ("", ""),
        ([], ""),
        ([{"type": "text", "text": ""}], "[0].text"),
        ([{"type": "text", "text": 5}], "[0].text"),
        ([{"type": "text", "text": "a", "text2": ""}], "[0].text2"),
        ([{"type": "text", "text": "a", "image_url": {}}], "[0].image_url"),
        ([{"type": "image_url", "image_url": {}}], "[0].image_url.url"),
        ([{"type": "image_url", "image_url": {"url": "!"}}], "[0].image_url.url"),
        ([{"type": "image_url", "image_url": {"url": "", "list": 1}}], "[0].image_url.list"),
        ([{"type": "audio"}], "[0]"),
        ([{"type": ["text"]}], "[0]"),
        ([{}], "[0]"),
        ([{"type": "text", "text": "a"}] * 2, ""),
    ],
)
def test_wrong_message(embed: Callable[..., httpx.Response], content: Any, param: str) -> None:
    response = embed(messages=[{"role": "user", "content": content}])
    assert_refused(response, 400, param=f"messages[0].content{param}")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input": [{"text": "a", "image": "AAAA"}]}, "either `text` or `image`"),
        ({"input": "a", "truncate": "START"}, "`NONE`"),
        ({"input": "a", "normalized": False}, "unit length"),
        ({"input": "a", "late_chunking": True}, "by itself"),
    ],
)
def test_the_message_says_what_to_do(
    embed: Callable[..., httpx.Response], fields: dict[str, Any], said: str
) -> None:
    response = embed(**fields)
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


LONG = "x" * 500_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "a", "model": LONG}),
        ("/v1/embeddings", {"input": "a", LONG: 1}),
        ("/v1/embeddings", {"input": [{"text": "a", LONG: 1}]}),
        ("/v1/embeddings", {"input": [{LONG: "a"}]}),
        ("/v1/embeddings", {"input": "a", "encoding_format": LONG}),
        ("/v1/embeddings", {"messages": [{"role": "u", "content": [{"type": LONG}]}]}),
        ("/v1/embeddings", {"input": {"image": f"{LONG}:"}}),
        ("/v1/zero-shot", {"labels": ["a"], "templates": [LONG]}),
        ("/v1/zero-shot", {"labels": ["a"], "templates": LONG}),
        ("/v1/zero-shot", {"label_set": LONG}),
        ("/v1/zero-shot", {"labels": [LONG]}),
    ],
)
def test_what_was_sent_is_not_sent_back(api: httpx.Client, path: str, body: dict[str, Any]) -> None:
    if path == "/v1/zero-shot":
        body = {"image": data_url(RED_CIRCLE)} | body
    response = api.post(path, json=body)
    assert response.status_code in {400, 413}, response.text[:500]
    assert len(response.content) < 1_000
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_long_template_is_measured_before_it_is_read(
    classify: Callable[..., httpx.Response],
) -> None:
    response = classify(templates=["{}", "x" * 40_000])
    assert_refused(response, 413, "GATEWAY_MAX_TEXT_CHARACTERS", param="templates[1]")
    without = classify(templates=["x" * 30_000])
    assert_refused(without, 400, "exactly once", param="templates[0]")
    assert len(without.content) < 1_000


def test_a_template_in_place_of_the_name_of_a_set(classify: Callable[..., httpx.Response]) -> None:
    assert_refused(classify(templates="a photo of a {}"), 400, "list", param="templates")


def test_a_long_content_type_is_not_sent_back(api: httpx.Client) -> None:
    headers = {"content-type": "x" * 30_000}
    response = api.post("/v1/embeddings/image", content=b"x", headers=headers)
    assert_refused(response, 400, "content-type")
    assert len(response.content) < 1_000


def test_unknown_model(embed: Callable[..., httpx.Response]) -> None:
    response = embed(model="gpt-4", input="x")
    assert_refused(response, 404, "gpt-4", "demo", param="model")
    assert response.json()["error"]["code"] == "model_not_found"


def test_dimensions_over_the_models(embed: Callable[..., httpx.Response]) -> None:
    assert_refused(embed(input="x", dimensions=100_000), 400, "100000", param="dimensions")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"texts": ["a"] * 2_049}, "texts"),
        ({"images": ["AAAA"] * 2_049}, "images"),
        ({"inputs": [{"content": [{"type": "text", "text": "a"}]}] * 2_049}, "inputs"),
    ],
)
def test_coheres_fields_have_coheres_names(
    api: httpx.Client, body: dict[str, Any], param: str
) -> None:
    error = api.post("/v2/embed", json=body).json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")


def test_text_over_the_context_length_where_cutting_is_declined(
    embed: Callable[..., httpx.Response],
) -> None:
    response = embed(input=["x", "word " * 500], truncate=False)
    assert_refused(response, 400, "context length", param="input[1]")
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_truncated_jpeg_in_a_batch_is_named(embed: Callable[..., httpx.Response]) -> None:
    jpeg = encoded(Image.open(BytesIO(RED_CIRCLE)).convert("RGB"), "JPEG")
    good, bad = data_url(jpeg, "jpeg"), data_url(jpeg[: len(jpeg) // 2], "jpeg")
    assert_refused(
        embed(input=[good, "text", bad, good]), 400, "cannot be decoded", param="input[2]"
    )


def test_extreme_shape(classify: Callable[..., httpx.Response]) -> None:
    image = data_url(encoded(Image.new("RGB", (50_000, 3))))
    assert_refused(classify(image=image), 413, "50000 x 3", param="image")


def test_200_megapixels(embed: Callable[..., httpx.Response]) -> None:
    response = embed(input=data_url(huge_png()))
    assert_refused(response, 413, "GATEWAY_MAX_IMAGE_PIXELS", param="input")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"labels": []}, "labels"),
        ({"labels": "red circle"}, "labels"),
        ({"labels": None}, "labels"),
        ({"labels": ["ok"] * 500 + [7] + ["ok"] * 499}, "labels[500]"),
        ({"labels": ["ok", ""]}, "labels[1]"),
        ({"labels": {"a": "b"}}, "labels"),
        ({"templates": []}, "templates"),
        ({"templates": ["a photo of a"]}, "templates[0]"),
        ({"templates": ["{}", "{} and {}"]}, "templates[1]"),
        ({"templates": ["{}", 3]}, "templates[1]"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": "all"}, "top_k"),
        ({"image": ""}, "image"),
        ({"image": 3}, "image"),
        ({"image": "%%%"}, "image"),
        ({"image": "data:text/plain;base64,AAAA"}, "image"),
        ({"image": "https://example.com/a.png"}, "image"),
        ({"image": None, "images": []}, "images"),
        ({"image": None, "images": [data_url(RED_CIRCLE), "AAAA"]}, "images[1]"),
        ({"image": None}, None),
        ({"images": [data_url(RED_CIRCLE)]}, None),
    ],
)
def test_wrong_zero_shot(
    classify: Callable[..., httpx.Response], body: dict[str, Any], param: str | None
) -> None:
    assert_refused(classify(**body), 400, param=param)


def test_braces_are_only_text(classify: Callable[..., httpx.Response]) -> None:
    response = classify(labels=["{0}", "{x.__class__}", "%s"], templates=["{a} {} {b!r}"])
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/embedding", 404),
        ("POST", "/v1/embeddings/", 404),
        ("GET", "/v1/embeddings", 405),
        ("DELETE", "/v1/models", 405),
        ("PUT", "/v1/zero-shot", 405),
    ],
)
def test_unknown_routes_and_methods(api: httpx.Client, method: str, path: str, status: int) -> None:
    assert_refused(api.request(method, path), status, path)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v1/health/live", "/v1/models"])
def test_head_is_get_without_a_body(api: httpx.Client, path: str) -> None:
    asked, got = api.head(path), api.get(path)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == got.headers["content-length"]


def test_a_compressed_body(api: httpx.Client) -> None:
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    body = gzip.compress(b'{"input": "a"}')
    response = api.post("/v1/embeddings", content=body, headers=headers)
    assert_refused(response, 400, "uncompressed", param="content-encoding")


def test_limits_name_their_settings(triton: TritonServer, start_gateway: GatewayFactory) -> None:
    limits = {
        "max_body_bytes": 5_000,
        "max_items": 3,
        "max_labels": 4,
        "max_prompts": 6,
        "max_text_characters": 20,
        "max_image_bytes": 100,
    }
    with start_gateway(triton_address=triton.addresses.grpc, **limits) as small:
        tiny = data_url(encoded(Image.new("1", (1, 1))))
        cases: list[tuple[str, dict[str, Any], str]] = [
            ("/v1/embeddings", {"input": "x" * 6_000}, "MAX_BODY_BYTES"),
            ("/v1/embeddings", {"input": ["a"] * 4}, "MAX_ITEMS"),
            ("/v1/embeddings", {"input": ["a", "a" * 21]}, "MAX_TEXT_CHARACTERS"),
            ("/v1/embeddings", {"input": {"image": "A" * 200}}, "MAX_IMAGE_BYTES"),
            ("/v1/zero-shot", {"image": tiny, "labels": list("abcde")}, "MAX_LABELS"),
            (
                "/v1/zero-shot",
                {"image": tiny, "labels": list("abcd"), "templates": ["{}", "a {}"]},
                "MAX_PROMPTS",
            ),
            ("/v1/zero-shot", {"image": tiny, "labels": ["a" * 21]}, "MAX_TEXT_CHARACTERS"),
            ("/v1/zero-shot", {"images": [tiny] * 4, "labels": ["a"]}, "MAX_ITEMS"),
        ]
        for path, body, setting in cases:
            response = small.post(path, json=body)
            assert response.status_code == 413, response.text
            assert f"GATEWAY_{setting}" in response.json()["error"]["message"]

        both = small.post("/v1/similarity", json={"texts": ["a"] * 3, "image": tiny})
        assert_refused(
            both, 413, "4 items (texts and images together)", "GATEWAY_MAX_ITEMS", param="images"
        )

        def chunks() -> Iterator[bytes]:  # no content-length
            for _ in range(10):
                yield b" " * 1_000

        response = small.post("/v1/embeddings", content=chunks())
        assert response.status_code == 413
        assert small.post("/v1/embeddings", content=json.dumps({"input": "x"})).status_code == 200
