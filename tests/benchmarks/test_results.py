import json
import math
from pathlib import Path

import pytest

from benchmarks.reporting.results import Check, Results, ResultsError, Row, collect
from benchmarks.traffic.errors import BenchmarkError

MANIFEST = {"id": "m", "open_clip_name": "M", "precision": "fp32", "fingerprint": "f"}


def made() -> Results:
    rows = [Row({"kind": "text", "concurrency": 8}, {"per_second": 1.5, "p99_ms": math.inf})]
    return collect("compare", MANIFEST, {"output": Path("x"), "seconds": 2.0}, rows,
                   [Check("c", 0.9, 0.8, True)])  # fmt: skip


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    results = made()
    path = results.write(tmp_path / "deep" / "a.benchmark.json")
    assert Results.read(path) == results
    assert results.model == MANIFEST
    assert results.settings == {"output": "x", "seconds": 2.0}


def test_machine_and_versions_are_told() -> None:
    results = made()
    assert results.machine["cores"]
    assert results.machine["memory_gb"]
    assert {"numpy", "onnxruntime", "tritonclient"} <= set(results.versions)


@pytest.mark.parametrize(
    ("value", "at_least", "passed"),
    [(1.0, True, True), (0.9, True, False), (1.0, False, True), (1.1, False, False),
     (math.nan, True, False), (math.nan, False, False)],
)  # fmt: skip
def test_checks(value: float, at_least: bool, passed: bool) -> None:
    assert Check("c", value, 1.0, at_least).passed is passed


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = made().write(tmp_path / "a.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(ResultsError, match=r"a\.json: not a file of results: .*\nschema_version"):
        Results.read(path)
    for text in ("{", "[]", "{}", json.dumps(content | {"rows": [{"labels": {}}]})):
        path.write_text(text)
        with pytest.raises(BenchmarkError, match=r"a\.json: not a file of results"):
            Results.read(path)
    with pytest.raises(ResultsError, match=r"b\.json"):
        Results.read(tmp_path / "b.json")
