"""Which model a request is for, while what is served changes."""

import pytest

from gateway.errors import MalformedRequest, UnknownModel
from gateway.manifest import read_manifest
from gateway.models import Model, Models
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def demo() -> Model:
    return Model.load(read_manifest(REPOSITORY / "demo.manifest.json"), REPOSITORY)


def named(demo: Model, name: str) -> Model:
    return Model(demo.manifest.model_copy(update={"id": name}), demo.tokenizer)


def chosen(models: Models, name: str | None = None) -> str:
    return models.find(name).manifest.id


def test_a_second_model_takes_the_default_away(demo: Model) -> None:
    models = Models({"demo": demo})
    assert chosen(models) == "demo"
    models.put(named(demo, "other"))
    with pytest.raises(MalformedRequest, match="model: name one of: demo, other"):
        models.find(None)
    assert chosen(models, "demo") == "demo"


def test_the_one_that_is_left_is_the_default(demo: Model) -> None:
    models = Models({"demo": demo, "other": named(demo, "other")})
    with pytest.raises(MalformedRequest):
        models.find(None)
    models.drop("other")
    assert chosen(models) == "demo"


def test_one_that_replaces_the_only_one_is_the_default(demo: Model) -> None:
    models = Models({"demo": demo})
    models.put(named(demo, "other"))
    models.drop("demo")
    assert chosen(models) == "other"
    with pytest.raises(UnknownModel, match="'demo' is not served; served are: other"):
        models.find("demo")


def test_the_configured_default_stays(demo: Model) -> None:
    models = Models({"demo": demo}, aliases={"clip": "demo"}, default="demo")
    models.put(named(demo, "other"))
    assert chosen(models) == chosen(models, "clip") == "demo"
    models.drop("demo")
    with pytest.raises(UnknownModel, match="'demo' is not served"):
        models.find(None)


@pytest.mark.parametrize("name", [None, "demo"])
def test_where_none_is_left_that_is_said(demo: Model, name: str | None) -> None:
    models = Models({"demo": demo})
    models.drop("demo")
    with pytest.raises(UnknownModel, match="no model is served"):
        models.find(name)
