"""Which model a request is for, while what is served changes."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import NoReturn, cast

import pytest

from gateway.build import BackgroundTasks
from gateway.errors import MalformedRequest, UnknownModel
from gateway.inference.client import FakeInferClient
from gateway.models.manifest import MAX_CARD_BYTES, ManifestError, read_manifest
from gateway.models.registry import Model, Models, Selection
from gateway.operations.updates import Updates
from gateway.pipeline.classifiers import Classifiers
from tests.conftest import REPOSITORY
from tests.gateway.tritons import add_copies, copied


@pytest.fixture(scope="module")
def demo() -> Model:
    return Model.load(read_manifest(REPOSITORY / "demo.manifest.json"), REPOSITORY)


def test_a_card_that_cannot_be_read_is_none(demo: Model, tmp_path: Path) -> None:
    assert demo.read_card().startswith("# demo\n")
    path = tmp_path / "card.md"
    path.write_bytes(b"x" * MAX_CARD_BYTES)
    assert len(Model(demo.manifest, demo.tokenizer, path).read_card()) == MAX_CARD_BYTES
    with path.open("ab") as card:
        card.write(b"x")
    latin = tmp_path / "latin.md"
    latin.write_bytes(b"\xff")
    for unreadable in (path, latin, tmp_path, tmp_path / "none.md", None):
        with pytest.raises(UnknownModel, match="card"):
            Model(demo.manifest, demo.tokenizer, unreadable).read_card()


def named(demo: Model, name: str) -> Model:
    return Model(demo.manifest.model_copy(update={"id": name}), demo.tokenizer)


def chosen(models: Models, name: str | None = None) -> str:
    return models.find(name).manifest.id


def test_models_share_a_tokenizer_and_none_that_differs(demo: Model, tmp_path: Path) -> None:
    repository = copied(tmp_path)
    add_copies(repository, *(f"copy-{number}" for number in range(8)))
    renamed = {"file": "renamed.json"}  # another file with the same content
    shutil.copy(repository / demo.manifest.tokenizer.file, repository / renamed["file"])
    for name, changed in (("copy-1", renamed), ("copy-2", {"zeroed_id": 320})):
        path = repository / f"{name}.manifest.json"
        manifest = json.loads(path.read_text())
        manifest["tokenizer"] |= changed
        path.write_text(json.dumps(manifest))
    served = Selection(repository).load()
    tokenizers = {name: model.tokenizer for name, model in served.items()}
    other = tokenizers.pop("copy-2")
    [shared] = {id(each) for each in tokenizers.values()}
    assert id(other) != shared
    assert 320 in demo.tokenizer.encode("a").ids
    assert 320 not in other.encode("a").ids

    add_copies(repository, "late")
    later = Selection(repository).load(Models(served))
    assert id(later["late"].tokenizer) == shared
    assert later["copy-1"] is served["copy-1"]
    with (repository / renamed["file"]).open("a") as stream:
        stream.write(" ")
    with pytest.raises(ManifestError, match=r"renamed\.json: its SHA-256"):
        Selection(repository).load()


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
    assert not models.is_default("demo")
    models.drop("other")
    assert chosen(models) == "demo"
    assert models.is_default("demo")


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
    assert [models.is_default(name) for name in ("demo", "other")] == [True, False]
    assert [models.aliases(name) for name in ("demo", "other")] == [["clip"], []]
    models.drop("demo")
    with pytest.raises(UnknownModel, match="'demo' is not served"):
        models.find(None)


def test_a_long_name_is_not_repeated(demo: Model) -> None:
    with pytest.raises(
        UnknownModel, match=r"'x{100}'\.\.\. is not served; served are: demo"
    ) as error:
        Models({"demo": demo}).find("x" * 10_000_000)
    assert len(error.value.message) < 200


@pytest.mark.parametrize("name", [None, "demo"])
def test_where_none_is_left_that_is_said(demo: Model, name: str | None) -> None:
    models = Models({"demo": demo})
    models.drop("demo")
    with pytest.raises(UnknownModel, match="no model is served"):
        models.find(name)


async def test_a_repository_that_cannot_be_read_is_told_and_tried_again(demo: Model) -> None:
    models = Models({"demo": demo})
    gone = Selection(Path("x" * 300))  # the system says so, and not that there is none
    classifiers = cast("Classifiers", None)  # nothing is encoded
    updates = Updates(models, gone, FakeInferClient(lambda call: call.batch), classifiers)
    for _ in range(2):
        [problem] = await updates.reload()
        assert "File name too long" in problem
    assert chosen(models) == "demo"


@pytest.mark.parametrize("turns", range(8))
async def test_the_end_comes_however_soon_after_a_question(demo: Model, turns: int) -> None:
    classifiers = cast("Classifiers", None)  # nothing is encoded
    client = FakeInferClient(lambda call: call.batch)
    updates = Updates(Models({"demo": demo}), Selection(Path("x" * 300)), client, classifiers)
    following = asyncio.create_task(updates.follow(60))
    await asyncio.sleep(0.01)
    updates.ask()
    for _ in range(turns):  # of the event loop
        await asyncio.sleep(0)
    following.cancel()
    ended, _ = await asyncio.wait([following], timeout=10)
    assert ended


async def test_background_work_that_fails_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> NoReturn:
        raise RuntimeError("staged")

    forever = asyncio.Event()

    async def follows() -> NoReturn:
        await forever.wait()
        raise AssertionError

    background = BackgroundTasks([follows(), follows(), fails()])
    await asyncio.sleep(0)
    await background.end()
    [line] = caplog.records
    assert line.levelname == "CRITICAL"
    assert line.exc_info is not None
    assert "staged" in str(line.exc_info[1])


async def test_background_work_that_ends_as_if_cancelled_is_in_the_log_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ends() -> NoReturn:
        raise asyncio.CancelledError  # by gRPC, whose channel was closed

    background = BackgroundTasks([ends() for _ in range(3)])
    await asyncio.sleep(0)
    await background.end()
    assert [line.levelname for line in caplog.records] == ["CRITICAL"] * 3
