from pathlib import Path

import pytest

from benchmarks import tune
from benchmarks.errors import BenchmarkError
from benchmarks.published import CONFIG, manifests, weights_bytes
from benchmarks.repositories import copy, keep_lengths
from benchmarks.results import Row
from tests.conftest import REPOSITORY

MANIFEST = manifests(REPOSITORY)["demo"]
CONTEXT = MANIFEST["tokenizer"]["context_length"]


def configs(repository: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(repository.glob(f"*/{CONFIG}")))


def test_one_change_at_a_time_or_all_combinations() -> None:
    choices = {"a": ["1", "2"], "b": ["3"]}
    assert tune.variants(choices, grid=False) == [{}, {"a": "1"}, {"a": "2"}, {"b": "3"}]
    assert tune.variants(choices, grid=True) == [{"a": "1", "b": "3"}, {"a": "2", "b": "3"}]
    assert [tune.name_of(v) for v in ({}, {"a": "1", "b": "3"})] == ["as published", "a 1, b 3"]


def test_a_variant_changes_the_copy_and_not_the_original() -> None:
    before = configs(REPOSITORY), (REPOSITORY / "demo.manifest.json").read_text()
    variant = {tune.INSTANCES: "2", tune.DELAY: "700", tune.BATCH: "8", tune.LENGTHS: str(CONTEXT),
               "GATEWAY_TRITON_CALLS": "3"}  # fmt: skip
    with copy(REPOSITORY, MANIFEST) as folder:
        weights = weights_bytes(folder, MANIFEST)
        assert tune.apply(folder, MANIFEST, variant) == {"GATEWAY_TRITON_CALLS": "3"}
        assert weights_bytes(folder, MANIFEST) == 2 * weights
        text = (folder / "demo.image" / CONFIG).read_text()
        for words in ("count: 2", "max_queue_delay_microseconds: 700", "max_batch_size: 8",
                      'key: "intra_op_thread_count"'):  # fmt: skip
            assert words in text
        changed = manifests(folder)["demo"]["triton"]
        assert [tower["length"] for tower in changed["text"]] == [CONTEXT]
        assert changed["image"]["max_batch"] == 8
    assert not folder.exists()
    assert (configs(REPOSITORY), (REPOSITORY / "demo.manifest.json").read_text()) == before


def test_text_is_never_served_without_the_full_length(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=f"the full context, {CONTEXT}, is missing"):
        keep_lengths(tmp_path, MANIFEST, [CONTEXT - 1])


def test_a_variant_is_served_and_loaded() -> None:
    variant = {tune.INSTANCES: "1", tune.DELAY: "0"}
    rows = list(tune.measure(REPOSITORY, MANIFEST, variant, 0.1, seed=1))
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
