"""The OpenAPI document: complete, its examples true, and no generated request breaks anything."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from gateway.app import ENDPOINTS
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "20")  # for each operation
ANSWERS: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {
    each.path: (each.request, each.response) for each in ENDPOINTS if each.body is None
}


@pytest.fixture(scope="module")
def document(api: httpx.Client) -> dict[str, Any]:
    content: dict[str, Any] = api.get("/openapi.json").json()
    return content


def test_the_file_is_what_is_served(document: dict[str, Any]) -> None:
    assert document == json.loads((ROOT / "openclip_api" / "openapi.json").read_text())


@pytest.mark.timeout(1_500)
def test_the_document_says_what_is_taken_and_answered(api: httpx.Client, tmp_path: Path) -> None:
    """Requests that it allows are answered, others are refused, none breaks anything."""
    config = tmp_path / "schemathesis.toml"
    config.touch()
    ran = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "--no-color",
            "--config-file", str(config),
            "run", f"{api.base_url}/openapi.json", "--max-examples", EXAMPLES,
            "--checks", "all", "--phases", "examples,coverage,fuzzing", "--seed", "1",
            "--warnings", "off",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=1_200, check=False,
        env=os.environ | {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}",
            "SCHEMATHESIS_HOOKS": "tests.gateway.openapi_hooks",
        },
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-5_000:] + ran.stderr[-2_000:]
    assert "No issues found" in ran.stdout


@pytest.mark.parametrize("path", list(ANSWERS))
def test_the_examples_are_true(api: httpx.Client, document: dict[str, Any], path: str) -> None:
    asked, answered = ANSWERS[path]
    examples = document["components"]["schemas"][asked.__name__]["examples"]
    assert examples
    for example in examples:
        response = api.post(path, json=example)
        assert response.status_code == 200, response.text
        answered.model_validate_json(response.content, extra="forbid")


def test_the_example_is_what_it_says(api: httpx.Client, document: dict[str, Any]) -> None:
    [example] = document["components"]["schemas"]["ZeroShotRequest"]["examples"]
    [result] = api.post("/v1/zero-shot", json=example).json()["results"]
    assert result["predictions"][0]["label"] == "red circle"


def test_a_whole_number_may_have_a_point(api: httpx.Client) -> None:
    body: dict[str, Any] = {"input": "x", "dimensions": 8.0}
    [entry] = api.post("/v1/embeddings", json=body).json()["data"]
    assert len(entry["embedding"]) == 8
    body = {"query": "x", "documents": ["a", "b"], "top_n": 1.0}
    assert len(api.post("/v1/rerank", json=body).json()["results"]) == 1


def test_every_operation_says_what_it_is(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], path
            assert operation["description"], path
            assert operation["tags"], path
            assert "200" in operation["responses"], path
            bodiless = path.endswith("/cancel")
            assert ("requestBody" in operation) == (method == "post" and not bodiless), path
