"""Which models a repository publishes, and what is said of a broken one."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.errors import RepositoryError
from server.repository import published_models, select_models
from tests.server import tiny


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for model in ("one", "two"):
        tiny.add_demo(tmp_path, model)
    return tmp_path


def test_every_manifest_is_read_in_order(repository: Path) -> None:
    models = published_models(repository)
    assert [model.id for model in models] == ["one", "two"]
    assert models[0].triton_models == ("one.image", "one.text-4")


def test_ids_restrict_the_models(repository: Path) -> None:
    assert [model.id for model in select_models(repository, ["two", "two"])] == ["two"]
    with pytest.raises(RepositoryError, match="has no model 'three'; it has: one, two"):
        select_models(repository, ["three"])


def test_an_empty_repository_says_how_to_export(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=f"{tmp_path} contains no model.*python -m export"):
        published_models(tmp_path)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no such folder"):
        published_models(tmp_path / "missing")


def test_two_models_cannot_claim_one_triton_model(repository: Path) -> None:
    tiny.add_manifest(repository, "copy", "one.image", [("two.text-4", 4)])
    with pytest.raises(RepositoryError, match=r"copy\.manifest\.json both name .*'one\.image'"):
        published_models(repository)


GOOD: dict[str, Any] = {
    "schema_version": 1,
    "triton": {"image": {"name": "one.image"}, "text": [{"name": "one.text-4", "length": 4}]},
}
NAMES = "keys 'triton.image' and 'triton.text' must name folders"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected a JSON object"),
        (json.dumps(GOOD | {"schema_version": 2}), "key 'schema_version' is 2"),
        (json.dumps({"schema_version": 1}), NAMES),
        (json.dumps(GOOD | {"triton": GOOD["triton"] | {"text": []}}), NAMES),
        (json.dumps(GOOD | {"triton": GOOD["triton"] | {"image": "one.image"}}), NAMES),
        (json.dumps(GOOD | {"triton": GOOD["triton"] | {"text": [{"name": "../x"}]}}), NAMES),
        (json.dumps(GOOD | {"triton": GOOD["triton"] | {"image": {"name": 7}}}), NAMES),
        (
            json.dumps(GOOD | {"triton": GOOD["triton"] | {"image": {"name": "gone"}}}),
            "names the Triton model 'gone', but .* does not exist; export",
        ),
    ],
)
def test_a_broken_manifest_is_named_with_its_key(
    repository: Path, content: str, message: str
) -> None:
    (repository / "one.manifest.json").write_text(content)
    with pytest.raises(RepositoryError, match=message) as caught:
        published_models(repository)
    assert "one.manifest.json" in str(caught.value)
