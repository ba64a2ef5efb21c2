from pathlib import Path

import pytest

from benchmarks import tune
from benchmarks.reporting.results import Row
from benchmarks.systems.published import CONFIG, manifests, weights_bytes
from benchmarks.systems.repositories import copy
from tests.benchmarks.forms import DEMO, FORMS, PACKED, write_form
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def configs(repository: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(repository.glob(f"*/{CONFIG}")))


def test_one_change_at_a_time_or_all_combinations() -> None:
    choices = {"a": ["1", "2"], "b": ["3"]}
    assert tune.variants(choices, grid=False) == [{}, {"a": "1"}, {"a": "2"}, {"b": "3"}]
    assert tune.variants(choices, grid=True) == [{}, {"a": "1", "b": "3"}, {"a": "2", "b": "3"}]
    assert [tune.name_of(v) for v in ({}, {"a": "1", "b": "3"})] == ["as published", "a 1, b 3"]


@pytest.mark.parametrize("form", FORMS)
def test_a_variant_changes_the_copy_and_not_the_original(tmp_path: Path, form: str) -> None:
    repository = tmp_path / "repository"
    manifest = write_form(repository, form)
    before = configs(repository), (repository / "demo.manifest.json").read_text()
    variant = {tune.INSTANCES: "2", tune.DELAY: "700", tune.BATCH: "8", "GATEWAY_TRITON_CALLS": "3"}
    variant |= {tune.SPLIT: "1"}
    with copy(repository, manifest) as folder:
        weights = weights_bytes(folder, manifest)
        assert tune.apply(folder, manifest, variant) == {"GATEWAY_TRITON_CALLS": "3"}
        assert weights_bytes(folder, manifest) == 2 * weights
        text = (folder / "demo.image" / CONFIG).read_text()
        for words in ("count: 2", "max_queue_delay_microseconds: 700", "max_batch_size: 8",
                      'key: "intra_op_thread_count"', 'key: "split_batches"'):  # fmt: skip
            assert text.count(words) == 1
        changed = manifests(folder)["demo"]["triton"]
        assert {tower["max_batch"] for tower in (changed["image"], *changed["text"])} == {8}
    assert not folder.exists()
    assert (configs(repository), (repository / "demo.manifest.json").read_text()) == before


def test_a_variant_is_served_and_loaded() -> None:
    variant = {tune.INSTANCES: "1", tune.DELAY: "0"}
    rows = list(tune.measure(REPOSITORY, DEMO, variant, 0.1, seed=1))
    assert [(row.labels["kind"], row.labels["concurrency"]) for row in rows] == list(tune.LOADS)
    assert all(row.values["errors"] == 0 < row.values["per_second"] for row in rows)
    assert not list(REPOSITORY.parent.glob(".benchmark-*"))


def rows_of(**rates: list[float]) -> list[Row]:
    """Rounds of variants, by name, under every load."""
    return [
        Row({"variant": name.replace("_", " "), "kind": kind, "concurrency": load},
            {"per_second": rate, "p99_ms": 10.0})
        for name, found in rates.items()
        for kind, load in tune.LOADS
        for rate in found
    ]  # fmt: skip


def test_what_every_round_shows_is_marked_and_chosen() -> None:
    rows = rows_of(
        as_published=[50, 51, 52], max_batch_8=[53, 60, 61], max_batch_9=[52, 70, 71],
        instances_2=[40, 41, 49],
    )  # fmt: skip
    _, _, *lines = tune.table(rows).splitlines()
    shown = ["51 (50 to 52, p99 10 ms)", "**60 (53 to 61, p99 10 ms), faster**",
             "70 (52 to 71, p99 10 ms)", "**41 (40 to 49, p99 10 ms), slower**"]  # fmt: skip
    names = ["as published", "max batch 8", "max batch 9", "instances 2"]
    assert lines == [f"| {n}" + f" | {s}" * 4 + " |" for n, s in zip(names, shown, strict=True)]
    tried = [{}, {tune.BATCH: "8"}, {tune.BATCH: "9"}, {tune.INSTANCES: "2"}]
    assert tune.choose(rows, tried) == {
        kind: {"max batch": "8"} for kind in ("rest-image", "rest-text")
    }


def test_few_rounds_choose_nothing() -> None:
    rows = rows_of(as_published=[50, 51], max_batch_8=[60, 61])
    assert tune.choose(rows, [{}, {tune.BATCH: "8"}]) == {}


def test_what_is_slower_under_another_load_is_not_chosen() -> None:
    rows = rows_of(as_published=[50, 51, 52], max_batch_8=[60, 61, 62])
    for row in rows:
        if row.labels["variant"] == "max batch 8" and row.labels["concurrency"] == 32:
            row.values["per_second"] -= 30
    assert tune.choose(rows, [{}, {tune.BATCH: "8"}]) == {}


def test_calls_follow_the_instances(tmp_path: Path) -> None:
    manifest = write_form(tmp_path / "repository", PACKED)
    with copy(tmp_path / "repository", manifest) as folder:
        assert tune.apply(folder, manifest, {tune.INSTANCES: "2"}) == {"GATEWAY_TRITON_CALLS": "2"}


def test_a_choice_is_written_for_its_encoders_alone(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    manifest = write_form(repository, PACKED)
    image, text = (repository / f"demo.{name}" / CONFIG for name in ("image", "text"))
    before = image.read_text()
    variant = {tune.INSTANCES: "2", tune.BATCH: "8"}
    settings = tune.write(repository, manifest, {"rest-text": variant})
    assert settings == {"GATEWAY_TRITON_CALLS": "2"}
    assert image.read_text() == before
    for words in ("count: 2", "max_batch_size: 8", "enable_mem_pattern"):
        assert words in text.read_text()
    models = manifests(repository)["demo"]["triton"]
    assert [encoder["max_batch"] for encoder in models["text"]] == [8]
    assert models["image"] == manifest["triton"]["image"]
    assert not list(repository.rglob("*.new"))
    assert not list(tmp_path.glob(".benchmark-*"))


def test_settings_must_have_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune.main(["--repository", str(REPOSITORY), "--env", "WORKERS=2"])
    assert "--env: WORKERS=2: give GATEWAY_NAME=VALUE" in capsys.readouterr().err
