import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import report
from benchmarks.reporting import page
from benchmarks.reporting.results import Results, ResultsError

STORED = Path(__file__).parent / "stored.benchmark.json"
PUBLISHED = Path(__file__).parent / "published.benchmark.json"
DOCS = Path(__file__).parents[2] / "docs"


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


def test_the_plot_of_peers_is_drawn_from_the_published_run(tmp_path: Path) -> None:
    report.write([PUBLISHED], tmp_path)
    with Image.open(tmp_path / "peers.png") as drawn, Image.open(DOCS / "images/peers.png") as kept:
        assert drawn.size == kept.size == (1320, 792)
        share = np.mean(np.asarray(drawn.convert("RGB")) != np.asarray(kept.convert("RGB")))
    assert share < 0.05  # another version of matplotlib may draw letters otherwise


def test_the_published_table_is_of_that_run() -> None:
    table = [line for line in (DOCS / "performance.md").read_text().splitlines() if "; " in line]
    for row in Results.read(PUBLISHED).rows:
        if "per_second" in row.values:
            start = f"| {row.labels['kind']} | {row.labels['concurrency']} | "
            (line,) = [each for each in table if each.startswith(start)]
            cells = [cell.split(";") for cell in line.split("|") if ";" in cell]
            assert [*row.values.values()] in [[float(figure) for figure in cell] for cell in cells]
