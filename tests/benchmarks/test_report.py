import shutil
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.reporting import page
from benchmarks.reporting.results import Results, ResultsError

STORED = Path(__file__).parent / "stored.benchmark.json"


def test_a_stored_run_is_reported(tmp_path: Path) -> None:
    path = report.write([STORED], tmp_path / "out")
    text = path.read_text()
    assert path.name == "report.md"
    assert text.startswith("# Benchmarks\n\n## compare: vit-b-32\n\n![compare](compare.png)\n")
    assert "ViT-B-32 fp32, AMD EPYC, 2 cores, 24 GB; 2026-11-21" in text
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert text.count("\n| ours | caption | 8 | 35.3 | 173 | 737 | 773 | 37 | 0 | 1.70 |\n") == 1


def test_the_short_table_sets_us_beside_the_others() -> None:
    text = page.tables(Results.read(STORED))
    lines = [line for line in text.splitlines() if line.startswith("| caption | 8 ")]
    assert lines == ["| caption | 8 | 35.3 | 173 | 737 | 773 | 0 | 122 | 15.8 |"]


def test_checks_say_what_was_missed() -> None:
    text = page.checks_table(Results.read(STORED))
    assert "| caption, 8 at a time: p99 / p50 | 4.47 | at most 2 | **miss** |" in text
    assert "| caption, 32 at a time: mean Triton batch | 4.26 | at least 4 | pass |" in text


def test_stages_have_a_table_and_functions_none() -> None:
    text = page.tables(Results.read(STORED))
    assert "| tokenize | 0.10 |" in text
    assert "gateway.models.tokenizer:encode" not in text


def test_all_results_of_a_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultsError, match="run a benchmark first"):
        report.main([])
    folder = tmp_path / "reports" / "benchmarks" / "deep"
    folder.mkdir(parents=True)
    shutil.copy(STORED, folder)
    assert report.main([]) == 0
    assert capsys.readouterr().out == "Written to reports/benchmarks/report.md\n"
