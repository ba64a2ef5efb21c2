"""Label sets, template sets and labels that are known: what is encoded, and what is not."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from gateway.app import load
from gateway.models.manifest import read_manifest
from gateway.models.registry import Model
from gateway.pipeline.classifiers import PROMPT_CHARACTERS, PROMPTS, cache_keys, portions
from gateway.pipeline.label_sets import TEMPLATE_SETS, LabelSetError, read_label_sets
from gateway.pipeline.scoring import Label, prompts
from gateway.settings import Settings
from server.launcher import TritonServer
from tests.conftest import REPOSITORY, GatewayFactory
from tests.gateway.tritons import inferences
from tests.gateway.waiting import wait_until
from tests.items import sample

RED_CIRCLE = sample("red-circle.png")
SHAPES: dict[str, Any] = {
    "name": "shapes",
    "labels": ["blue star", {"name": "round", "names": ["red circle", "blue circle"]}],
    "templates": ["a photo of a {}.", "a drawing of a {}."],
}


def write(folder: Path, *sets: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for index, each in enumerate(sets):
        (folder / f"{index}.yaml").write_text(yaml.safe_dump(each))
    return folder


def encoded(triton: TritonServer) -> dict[str, int]:
    """How many texts and images Triton has encoded so far."""
    counts = inferences(triton)
    texts = sum(count for name, count in counts.items() if ".text" in name)
    return {"texts": texts, "images": counts["demo.image"]}


def classify(api: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = api.post("/v1/zero-shot", json={"image": RED_CIRCLE} | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def cost(triton: TritonServer, api: httpx.Client, **fields: Any) -> dict[str, int]:
    wait_ready(api)  # every encoder is verified once
    before = encoded(triton)
    classify(api, **fields)
    after = encoded(triton)
    return {name: after[name] - before[name] for name in after}


def test_known_labels_cost_one_image(triton: TritonServer, start_gateway: GatewayFactory) -> None:
    labels = [f"label {number}" for number in range(1_000)]
    templates = list(TEMPLATE_SETS["general"])
    assert len(templates) == 7
    with start_gateway(triton_address=triton.addresses.grpc) as api:
        asked = {"labels": labels, "templates": templates}
        assert cost(triton, api, **asked) == {"texts": 7_000, "images": 1}
        assert cost(triton, api, **asked) == {"texts": 0, "images": 1}
        named = {"labels": labels, "templates": "general"}
        assert cost(triton, api, **named) == {"texts": 0, "images": 1}
        shuffled = {"labels": labels[::-1], "templates": templates}
        assert cost(triton, api, **shuffled) == {"texts": 0, "images": 1}
        changed = {"labels": [*labels[:-1], "another label"], "templates": templates}
        assert cost(triton, api, **changed) == {"texts": 7, "images": 1}


def test_without_a_cache_all_is_encoded_anew(
    triton: TritonServer, start_gateway: GatewayFactory
) -> None:
    with start_gateway(triton_address=triton.addresses.grpc, text_cache_bytes=0) as api:
        for _ in range(2):
            found = cost(triton, api, labels=["red circle", "blue star"])
            assert found == {"texts": 2, "images": 1}


async def test_misses_at_the_same_time_are_encoded_once(
    triton: TritonServer, start_gateway: GatewayFactory
) -> None:
    body = {"image": RED_CIRCLE, "labels": [f"once {number}" for number in range(50)]}
    with start_gateway(triton_address=triton.addresses.grpc) as api:
        wait_ready(api)
        before = encoded(triton)
        async with httpx.AsyncClient(base_url=api.base_url, timeout=60) as client:
            asked = [client.post("/v1/zero-shot", json=body) for _ in range(20)]
            answers = [response.json() for response in await asyncio.gather(*asked)]
        assert all(answer["results"] == answers[0]["results"] for answer in answers)
        after = encoded(triton)
        assert after["texts"] - before["texts"] == 50
        assert after["images"] - before["images"] == 20


def test_a_label_set_is_encoded_at_start(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    sets = write(tmp_path / "sets", SHAPES)
    with start_gateway(triton_address=triton.addresses.grpc, label_sets=sets) as api:
        wait_ready(api)
        assert cost(triton, api, label_set="shapes") == {"texts": 0, "images": 1}
        answer = classify(api, label_set="shapes")
        [result] = answer["results"]
        assert [entry["label"] for entry in result["predictions"]] == ["round", "blue star"]
        assert [entry["index"] for entry in result["predictions"]] == [1, 0]
        # The row of a label is the mean over its names in all templates, of unit length.
        prompts = [
            template.replace("{}", name)
            for name in SHAPES["labels"][1]["names"]
            for template in SHAPES["templates"]
        ]
        body = {"input": [*prompts, RED_CIRCLE]}
        data = api.post("/v1/embeddings", json=body).json()["data"]
        *texts, image = (np.array(entry["embedding"]) for entry in data)
        mean = np.mean(texts, axis=0)
        cosine = image @ mean / np.linalg.norm(mean)
        assert result["predictions"][0]["cosine"] == pytest.approx(cosine, abs=1e-6)


def wait_ready(api: httpx.Client) -> None:
    wait_until(lambda: api.get("/readyz").status_code == httpx.codes.OK, "never ready")


def test_not_ready_before_label_sets_are_encoded(
    start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    sets = write(tmp_path / "sets", SHAPES)
    with start_gateway(triton_address="127.0.0.1:9", label_sets=sets) as api:
        response = api.get("/readyz")
        assert response.status_code == 503
        assert "label set 'shapes'" in response.json()["error"]["message"]


def test_named_templates(api: httpx.Client) -> None:
    labels = ["red circle", "blue star"]
    named = classify(api, labels=labels, templates="photo")
    assert named == classify(api, labels=labels, templates=["a photo of a {}."])
    plain = classify(api, labels=labels, templates="plain")
    assert plain == classify(api, labels=labels)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"label_set": "unknown"}, 404, "label_set"),
        ({"label_set": "unknown", "labels": ["x"]}, 400, "labels"),
        ({}, 400, "labels"),
        ({"labels": ["x"], "templates": "unknown"}, 400, "templates"),
        ({"labels": ["x"], "templates": ["no place"]}, 400, "templates[0]"),
        ({"labels": []}, 400, "labels"),
    ],
)
def test_bad_sets(
    api: httpx.Client, fields: dict[str, Any], status: int, param: str | None
) -> None:
    response = api.post("/v1/zero-shot", json={"image": RED_CIRCLE} | fields)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: [", "not YAML"),
        ("- just\n- a list", "valid dictionary"),
        ("name: x", "labels"),
        ("name: x\nlabels: []", "labels"),
        ("name: 'a b'\nlabels: [x]", "name"),
        ("name: x\nlabels: [x]\ncolour: red", "colour"),
        ("name: x\nlabels: [x]\ntemplates: [no place]", "exactly once"),
        ("name: x\nlabels: [x]\ntemplates: unknown", "no template set 'unknown'"),
        ("name: x\nlabels: [1]", "labels.0"),
        ("name: first\nlabels: [x]", "another file"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, content: str, said: str) -> None:
    folder = write(tmp_path / "sets", {"name": "first", "labels": ["x"]})
    (folder / "wrong.yaml").write_text(content)
    with pytest.raises(LabelSetError, match=r"wrong\.yaml") as error:
        read_label_sets(folder, None)
    assert said in str(error.value)


def test_a_file_of_template_sets(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text("template_sets: {mine: ['my {}']}")
    sets = read_label_sets(None, path)
    assert sets.templates("mine") == ("my {}",)
    assert sets.templates("general") == TEMPLATE_SETS["general"]
    path.write_text("template_sets: {mine: ['my']}")
    with pytest.raises(LabelSetError, match="exactly once"):
        read_label_sets(None, path)
    with pytest.raises(LabelSetError, match="cannot be read"):
        read_label_sets(None, tmp_path / "none.yaml")
    with pytest.raises(LabelSetError, match="no such folder"):
        read_label_sets(tmp_path / "none", None)


def test_a_label_set_over_the_limits_is_refused_at_start(tmp_path: Path) -> None:
    sets = write(tmp_path / "sets", SHAPES)
    fits = max(
        len(template.replace("{}", name))
        for label in SHAPES["labels"]
        for name in (label.get("names", [label["name"]]) if isinstance(label, dict) else [label])
        for template in SHAPES["templates"]
    )
    load(Settings(model_repository=REPOSITORY, label_sets=sets, max_text_characters=fits))
    with pytest.raises(LabelSetError, match=r"'shapes'.*GATEWAY_MAX_TEXT_CHARACTERS"):
        load(Settings(model_repository=REPOSITORY, label_sets=sets, max_text_characters=fits - 1))


def test_long_labels_and_templates_make_no_long_keys() -> None:
    model = Model.load(read_manifest(REPOSITORY / "demo.manifest.json"), REPOSITORY)
    names = [("a", "b"), ("a', 'b",), ("x" * 30_000,), ("x" * 30_001,), ("a",)]
    templates = [("{}",), ("{}", "{}"), ("y" * 30_000 + "{}",) * 50]
    labels = [Label("any", each) for each in names]
    keys = [key for each in templates for key in cache_keys(model, labels, each)]
    assert len(set(keys)) == len(names) * len(templates)
    assert max(len(repr(key)) for key in keys) < 500
    assert cache_keys(model, labels, templates[0]) == keys[: len(names)]


def test_long_labels_stand_in_few_templates_at_a_time() -> None:
    labels = [(3, Label("long", ("x" * 30_000, "y"))), (7, Label("short", ("z",)))]
    templates = ("{}", "a {}") * 200
    cut = list(portions(labels, templates))
    texts = [item.text for each in cut for item in each]
    assert texts == [text for _, label in labels for text in prompts(label, templates)]
    assert [item.param for item in cut[-1]][-1] == "labels[7]"
    assert len(cut) == 4
    assert max(map(len, cut)) == PROMPTS
    assert max(sum(len(item.text) for item in each) for each in cut) <= PROMPT_CHARACTERS
