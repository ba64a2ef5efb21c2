from pathlib import Path

import pytest

from benchmarks import tune
from benchmarks.reporting.results import Row
from benchmarks.systems.published import CONFIG, manifests, weights_bytes
from benchmarks.systems.repositories import copy, keep_lengths
from benchmarks.traffic.errors import BenchmarkError
from tests.benchmarks.forms import CONTEXT, DEMO, FIXED, FORMS, PACKED, write_form
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def configs(repository: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(repository.glob(f"*/{CONFIG}")))


def test_one_change_at_a_time_or_all_combinations() -> None:
    choices = {"a": ["1", "2"], "b": ["3"]}
    assert tune.variants(choices, grid=False) == [{}, {"a": "1"}, {"a": "2"}, {"b": "3"}]
    assert tune.variants(choices, grid=True) == [{"a": "1", "b": "3"}, {"a": "2", "b": "3"}]
    assert [tune.name_of(v) for v in ({}, {"a": "1", "b": "3"})] == ["as published", "a 1, b 3"]


@pytest.mark.parametrize("form", FORMS)
def test_a_variant_changes_the_copy_and_not_the_original(tmp_path: Path, form: str) -> None:
    repository = tmp_path / "repository"
    manifest = write_form(repository, form)
    before = configs(repository), (repository / "demo.manifest.json").read_text()
    variant = {tune.INSTANCES: "2", tune.DELAY: "700", tune.BATCH: "8", "GATEWAY_TRITON_CALLS": "3"}
    variant |= {tune.LENGTHS: str(CONTEXT)} if form == FIXED else {}
    with copy(repository, manifest) as folder:
        weights = weights_bytes(folder, manifest)
        assert tune.apply(folder, manifest, variant) == {"GATEWAY_TRITON_CALLS": "3"}
        assert weights_bytes(folder, manifest) == 2 * weights
        text = (folder / "demo.image" / CONFIG).read_text()
        for words in ("count: 2", "max_queue_delay_microseconds: 700", "max_batch_size: 8",
                      'key: "intra_op_thread_count"'):  # fmt: skip
            assert words in text
        changed = manifests(folder)["demo"]["triton"]
        assert [tower["length"] for tower in changed["text"]] == [CONTEXT]
        assert changed["image"]["max_batch"] == 8
    assert not folder.exists()
    assert (configs(repository), (repository / "demo.manifest.json").read_text()) == before


def test_text_is_never_served_without_the_full_length(tmp_path: Path) -> None:
    manifest = write_form(tmp_path / "repository", FIXED)
    with pytest.raises(BenchmarkError, match=f"the full context, {CONTEXT}, is missing"):
        keep_lengths(tmp_path, manifest, [CONTEXT - 1])


def test_a_packed_model_has_no_lengths_to_choose(tmp_path: Path) -> None:
    """Which is said before anything is served."""
    manifest = write_form(tmp_path / "repository", PACKED)
    with pytest.raises(BenchmarkError, match="demo: its text encoder is packed"):
        keep_lengths(tmp_path, manifest, [CONTEXT])
    words = ["--repository", str(tmp_path / "repository"), "--output", str(tmp_path / "out")]
    with pytest.raises(BenchmarkError, match="demo: its text encoder is packed"):
        tune.main([*words, "--token-lengths", str(CONTEXT)])
    assert not (tmp_path / "out").exists()


def test_a_variant_is_served_and_loaded() -> None:
    variant = {tune.INSTANCES: "1", tune.DELAY: "0"}
    rows = list(tune.measure(REPOSITORY, DEMO, variant, 0.1, seed=1))
    assert [(row.labels["kind"], row.labels["concurrency"]) for row in rows] == list(tune.LOADS)
    assert all(row.values["errors"] == 0 < row.values["per_second"] for row in rows)
    assert not list(REPOSITORY.parent.glob(".benchmark-*"))


def test_the_best_of_each_column_is_marked() -> None:
    rows = [
        Row({"variant": name, "kind": kind, "concurrency": load},
            {"per_second": rate + repeat, "p99_ms": 10.0})
        for name, rate in (("as published", 50.0), ("max batch 8", 60.0))
        for kind, load in tune.LOADS
        for repeat in range(3)
    ]  # fmt: skip
    _, _, first, second = tune.table(rows).splitlines()
    assert first == "| as published" + " | 51 (p99 10 ms)" * 4 + " |"
    assert second == "| max batch 8" + " | **61 (p99 10 ms)**" * 4 + " |"


def test_settings_must_have_values() -> None:
    with pytest.raises(BenchmarkError, match="--env WORKERS=2: give GATEWAY_NAME=VALUE,VALUE"):
        tune.main(["--repository", str(REPOSITORY), "--env", "WORKERS=2"])
