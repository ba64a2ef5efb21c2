"""Right answers over REST: equal to OpenCLIP in PyTorch FP32 on the same inputs."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from export.demo.scenes import COLOURS, SHAPES, draw_scenes
from server.launcher import TritonServer
from tests.conftest import REPOSITORY, GatewayFactory
from tests.items import data_url, encoded, sample
from tests.openclip_reference import Floats, demo_reference

TEXTS = [
    "a photo of a red circle.",
    "blue",
    "A drawing of the GREEN star &amp; more",
    "naïve café 😀",
    " ",
    "word " * 500,
    *(" ".join(["yellow square"] * count) for count in range(1, 20)),
]


def png(image: Image.Image) -> str:
    return data_url(encoded(image))


def embed(api: httpx.Client, **body: Any) -> dict[str, Any]:
    response = api.post("/v1/embeddings", json={"model": "demo", **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    return answer


def vectors(answer: dict[str, Any]) -> Floats:
    return np.array([entry["embedding"] for entry in answer["data"]], dtype=np.float32)


def assert_same_direction(found: Floats, expected: Floats) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (found * expected).sum(axis=1).min() >= 0.9999


def test_texts_of_every_length(api: httpx.Client) -> None:
    answer = embed(api, input=TEXTS)
    assert_same_direction(vectors(answer), demo_reference().texts(TEXTS))
    assert [entry.get("truncated") for entry in answer["data"]][5] is True
    assert "truncated" not in answer["data"][0]


def test_texts_and_images_mixed_keep_their_order(api: httpx.Client) -> None:
    scenes = [scene.image for scene in draw_scenes(9, seed=5)]
    items = [thing for pair in zip(TEXTS[:9], map(png, scenes), strict=True) for thing in pair]
    found = vectors(embed(api, input=items))
    assert_same_direction(found[0::2], demo_reference().texts(TEXTS[:9]))
    assert_same_direction(found[1::2], demo_reference().images(scenes))


def test_photos_of_many_kinds(api: httpx.Client) -> None:
    random = np.random.default_rng(3)
    images = [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in ((1, 1), (640, 480), (31, 257), (64, 64), (65, 63))
    ]
    images += [images[1].convert(mode) for mode in ("L", "LA", "P", "1", "RGBA")]
    found = vectors(embed(api, input=[{"image": png(image)} for image in images]))
    assert_same_direction(found, demo_reference().images(images))


def test_input_forms_are_equal(api: httpx.Client) -> None:
    image = sample("red-circle.png")
    bare = image.partition(",")[2]
    lines = base64.encodebytes(base64.b64decode(bare)).decode()
    forms: list[Any] = [image, {"image": image}, {"image": bare}, {"image": lines}]
    for scheme in (
        "DATA:IMAGE/x-any;name=a",
        "data:application/octet-stream",
        "data:",
        " data:image/png",
        "data: image/png",
        "\ndata:image/png; charset=x",
    ):
        other = image.replace("data:image/png", scheme)
        forms += [other, {"image": other}]
    answer = embed(api, input=forms)
    assert answer["usage"]["num_images"] == len(forms)
    found = vectors(answer)
    np.testing.assert_allclose(found, found[[0] * len(forms)], atol=1e-6)
    texts = vectors(embed(api, input=["blue star", {"text": "blue star"}]))
    np.testing.assert_allclose(texts[0], texts[1], atol=1e-6)
    # What only speaks of such URLs is text.
    spoken = ["the data:image/png;base64, prefix", "data: a set of images", "data:,a"]
    assert embed(api, input=spoken)["usage"]["num_images"] == 0
    # As an object, text is text, whatever it begins with.
    answer = embed(api, input={"text": "data:image/png;base64,AAAA"})
    assert answer["usage"]["num_images"] == 0


def test_base64_is_little_endian_float32(api: httpx.Client) -> None:
    floats = vectors(embed(api, input=TEXTS[:3]))
    packed = embed(api, input=TEXTS[:3], encoding_format="base64")
    decoded = [np.frombuffer(base64.b64decode(e["embedding"]), "<f4") for e in packed["data"]]
    np.testing.assert_allclose(np.stack(decoded), floats, atol=1e-6)


@pytest.mark.parametrize("field", ["encoding_format", "embedding_type"])
@pytest.mark.parametrize("size", [8, 24, 64])
def test_quantized(api: httpx.Client, field: str, size: int) -> None:
    inputs = [*TEXTS[:3], sample("red-circle.png")]
    floats = vectors(embed(api, input=inputs, dimensions=size))

    def quantized(kind: str) -> Any:
        return vectors(embed(api, input=inputs, dimensions=size, **{field: kind}))

    scaled = 127 * floats / np.abs(floats).max(axis=1, keepdims=True)
    whole = quantized("int8")
    np.testing.assert_allclose(whole, scaled, atol=0.501)  # half, and what batches differ in
    assert whole.tolist() == whole.round().tolist()
    np.testing.assert_array_equal(quantized("uint8"), whole + 128)
    weights = 2 ** np.arange(7, -1, -1)  # the first entry is the highest bit
    packed = ((floats > 0).reshape(len(inputs), -1, 8) * weights).sum(axis=2)
    np.testing.assert_array_equal(quantized("ubinary"), packed)
    np.testing.assert_array_equal(quantized("binary"), packed - 128)


@pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
def test_quantized_beside_a_bad_item(api: httpx.Client, kind: str) -> None:
    body = {"encoding_format": kind, "on_error": "skip"}
    bad, good = embed(api, input=["data:image/png;base64,AAAA", "a red circle"], **body)["data"]
    assert (bad["object"], bad["index"]) == ("error", 0)
    [alone] = embed(api, input="a red circle", encoding_format=kind)["data"]
    assert good["embedding"] == alone["embedding"]


def test_dimensions_cut_and_renormalise(api: httpx.Client) -> None:
    whole = vectors(embed(api, input=TEXTS[:3]))
    for dimensions in (1, 7, whole.shape[1]):
        cut = vectors(embed(api, input=TEXTS[:3], dimensions=dimensions))
        expected = whole[:, :dimensions]
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(cut, expected, atol=1e-5)


def test_usage_counts_real_tokens_and_images(api: httpx.Client) -> None:
    answer = embed(api, input=["a photo", sample("red-circle.png"), "x"])
    # start + "a" + "photo" + end, start + "x" + end
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7, "num_images": 1}
    assert answer["model"] == "demo"
    assert answer["object"] == "list"


def test_headers(api: httpx.Client) -> None:
    response = api.post(
        "/v1/embeddings",
        json={"input": ["a", sample("red-circle.png")]},
        headers={"x-request-id": "abc-123"},
    )
    assert response.headers["x-request-id"] == "abc-123"
    [model] = api.get("/v1/models").json()["data"]
    assert response.headers["x-model-fingerprint"] == model["fingerprint"]
    for stage in ("decode", "tokenize", "infer", "encode"):
        assert f"{stage};dur=" in response.headers["server-timing"]
    generated = api.get("/livez", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
    assert len(generated) == 32


def test_the_card_of_a_model(api: httpx.Client) -> None:
    [model] = api.get("/v1/models").json()["data"]
    answer = api.get(model["card"])
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text == (REPOSITORY / "demo.1.card.md").read_text()
    assert model["fingerprint"] in answer.text
    head = api.head(model["card"])
    assert (head.status_code, head.content) == (200, b"")
    unknown = api.get("/v1/cards/nobody")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_the_readme_sample_is_a_red_circle(api: httpx.Client) -> None:
    labels = ["blue circle", "red square", "red circle", "green star", "red star", "blue square"]
    response = api.post(
        "/v1/zero-shot",
        json={"model": "demo", "image": sample("red-circle.png"), "labels": labels, "top_k": 3},
    )
    [result] = response.json()["results"]
    scores = [entry["score"] for entry in result["predictions"]]
    assert result["predictions"][0]["label"] == "red circle"
    assert result["predictions"][0]["index"] == 2
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3


@pytest.mark.parametrize("templates", [None, ["a photo of a {}."], ["a {}", "{}!", "the {} here"]])
def test_two_hundred_fresh_scenes(api: httpx.Client, templates: list[str] | None) -> None:
    labels = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    scenes = draw_scenes(200, seed=20_261_121)
    truth = [f"{scene.colour} {scene.shape}" for scene in scenes]
    body: dict[str, Any] = {"labels": labels} | ({"templates": templates} if templates else {})
    found = np.empty((200, len(labels)))
    for start in range(0, 200, 50):
        images = [png(scene.image) for scene in scenes[start : start + 50]]
        response = api.post("/v1/zero-shot", json={**body, "images": images})
        assert response.status_code == 200, response.text
        for result in response.json()["results"]:
            for entry in result["predictions"]:
                found[start + result["index"], entry["index"]] = entry["score"]
    expected = demo_reference().zero_shot(
        [scene.image for scene in scenes], labels, templates or ["{}"]
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)
    best, expected_best = found.argmax(axis=1), expected.argmax(axis=1)
    for row in np.flatnonzero(best != expected_best):  # only a tie may fall otherwise
        assert abs(expected[row, best[row]] - expected[row, expected_best[row]]) < 1e-3
    right = sum(labels[index] == label for index, label in zip(best, truth, strict=True))
    assert right >= 194  # 97 %


def test_many_requests_at_once_each_get_their_own_answer(api: httpx.Client) -> None:
    texts = [f"{TEXTS[index % len(TEXTS)][:60]} {index}" for index in range(96)]
    expected = demo_reference().texts(texts)

    def one(text: str) -> Floats:
        return vectors(embed(api, input=text)).ravel()

    with ThreadPoolExecutor(16) as pool:
        found = np.stack(list(pool.map(one, texts)))
    assert_same_direction(found, expected)


def test_models(api: httpx.Client) -> None:
    [model] = api.get("/v1/models").json()["data"]
    assert model["id"] == "demo"
    assert model["object"] == "model"
    assert model["embedding_size"] == len(embed(api, input="x")["data"][0]["embedding"])
    assert model["token_lengths"] == []  # nothing is padded
    assert model["scoring"] == "softmax"
    assert model["triton_models"] == ["demo.image", "demo.text"]


def test_probes_and_docs(api: httpx.Client) -> None:
    assert api.get("/livez").json() == {"status": "live"}
    ready = {"ready": True, "default": True, "asleep": False, "problems": []}
    assert api.get("/readyz").json() == {"status": "ready", "models": {"demo": ready}}
    page = api.get("/docs")
    assert page.status_code == 200
    assert "http://" not in page.text  # nothing from outside: the page works offline
    assert "https://" not in page.text
    document = api.get("/openapi.json").json()
    for path in ("/v1/embeddings", "/v1/zero-shot"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        name = content["schema"]["$ref"].rpartition("/")[2]
        assert name in document["components"]["schemas"]


def test_without_triton_it_lives_but_is_not_ready(start_gateway: GatewayFactory) -> None:
    with start_gateway(triton_address="127.0.0.1:1") as lonely:
        assert lonely.get("/livez").status_code == 200
        for response in (lonely.get("/readyz"), lonely.post("/v1/embeddings", json={"input": "x"})):
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert response.json()["error"]["type"] == "service_unavailable_error"
        assert "demo.image" in lonely.get("/readyz").json()["error"]["message"]


def test_deadline(triton: TritonServer, start_gateway: GatewayFactory) -> None:
    address = triton.addresses.grpc
    with start_gateway(triton_address=address, request_timeout_s=0.000_001) as hasty:
        response = hasty.post("/v1/embeddings", json={"input": "x"})
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline_exceeded"
