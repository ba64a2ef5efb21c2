from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.gate.variant_report import Latency, VariantReport
from export.report.report import write_report
from export.report.tables import table
from gateway.models.gate import (
    Agreement,
    DataSetFigures,
    EncoderFigures,
    Measured,
    Ranking,
    Recall,
    Retrieval,
    Run,
    Thresholds,
    ZeroShot,
)


def variant(model_id: str, noise: float) -> VariantReport:
    cosines = 1 - np.abs(np.random.default_rng(0).normal(0, noise, 200))
    lowest, mean, p1 = map(float, (cosines.min(), cosines.mean(), np.percentile(cosines, 1)))
    image = EncoderFigures.of([Run(None, n, 200, lowest, mean, p1, 0) for n in (1, 2, 32)])
    text = EncoderFigures.of([Run(16, 32, 99, lowest, mean, p1, 0)])
    rankings = [
        Ranking(16, batch, 200, 99, Agreement(48, 0.97, 0.99), ZeroShot(200, accuracy, 0.965))
        for batch, accuracy in ((1, 0.96), (32, 0.955))
    ]
    measured = Measured.of(image, text, rankings)
    return VariantReport(
        model_id, "int8", "onnxruntime", 12_300_000, measured, cosines, cosines,
        Thresholds(mean_cosine=0.99, accuracy_loss=1),
    )  # fmt: skip


def colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(image.width * image.height)
    assert found is not None
    return {colour for count, colour in found if count > 20 and isinstance(colour, tuple)}


def test_everything_is_in_the_report(tmp_path: Path) -> None:
    recalls = Retrieval(150, Recall(0.11, 0.22, 0.33, 0.44), Recall(0.12, 0.23, 0.34, 0.45))
    good = variant("demo", 1e-7)
    good = replace(
        good,
        measured=replace(good.measured, retrieval=recalls),
        recipe="Q/DQ, minmax.",
        latency=(("image", Latency(4.25, 6.5)),),
        notes=("accuracy was not measured",),
    )
    bad = replace(variant("demo.int8", 1e-2), failures=("too far off",), published=False)
    path = write_report(
        tmp_path / "new", [good, bad], "one test machine, 2 cores", ["`demo.fp16`: crashed"]
    )
    text = path.read_text(encoding="utf-8")
    assert "On one test machine, 2 cores." in text
    assert "| `demo` | int8 | onnxruntime | published | 12.3 |" in text
    assert "| `demo.int8` | int8 | onnxruntime | refused | 12.3 |" in text
    assert "- `demo.int8`, refused: too far off" in text
    assert "- `demo.fp16`: crashed" in text
    assert "- note: accuracy was not measured\n" in text
    assert "| `demo.int8` | 1 | 16 | 200 | 99 | 97.00 | 99.00 | 96.00 (0.50) |" in text
    assert "| `demo.int8` | 32 | 16 | 200 | 99 | 97.00 | 99.00 | 95.50 (1.00) |" in text
    assert "| zero-shot accuracy | 96.50 | 95.50 | 95.50 |" in text
    assert "| text to image, recall@5 | 45.00 | 44.00 | – |" in text  # noqa: RUF001
    assert "200 pictures, 200 of them labelled, 150 with a text of their own" in text
    assert "| `demo` | image | 4.25 | 6.50 |" in text
    assert "- `demo`: Q/DQ, minmax." in text
    assert f"| `demo.int8` | text, 16 tokens | 32 | 99 | {bad.measured.text.min_cosine:.7f}" in text
    assert {file.name for file in path.parent.iterdir()} == {"report.md", "cosines.png"}
    assert "(cosines.png)" in text


def test_data_sets_are_tabulated(tmp_path: Path) -> None:
    one, other = variant("one", 1e-6), variant("two", 1e-2)
    both = [
        replace(each, measured=replace(each.measured, data_sets=(figures,)))
        for each, found in ((one, 0.5), (other, 0.25))
        for figures in [DataSetFigures("a|b", 8, {"acc1": found}, {"acc1": 0.75})]
    ]
    text = write_report(tmp_path, both, "x").read_text(encoding="utf-8")
    assert "| data set | pictures | metric | PyTorch | `one` | `two` |" in text
    assert "| a\\|b | 8 | acc1 | 0.7500 | 0.5000 | 0.2500 |" in text
    assert "## Data sets" not in write_report(tmp_path, [one, other], "x").read_text()


def test_each_variant_has_its_own_colour(tmp_path: Path) -> None:
    both = [variant("one", 1e-6), variant("two", 1e-2)]
    write_report(tmp_path, both, "x")
    blue, orange = (0, 0x72, 0xB2), (0xE6, 0x9F, 0)
    assert {blue, orange} <= colours(tmp_path / "cosines.png")
    write_report(tmp_path, [both[0]], "x")
    assert orange not in colours(tmp_path / "cosines.png")


def test_without_labels_pairs_or_times(tmp_path: Path) -> None:
    plain = variant("demo", 0.0)
    rankings = [replace(each, zero_shot=None) for each in plain.measured.rankings]
    measured = Measured.of(plain.measured.image, plain.measured.text, rankings)
    plain = replace(plain, measured=measured)
    text = write_report(tmp_path, [plain], "x").read_text(encoding="utf-8")
    assert "| PyTorch | fp32 | PyTorch | the reference | – | 1 | 1 | – |" in text  # noqa: RUF001
    assert "zero-shot accuracy" not in text
    assert "recall" not in text
    assert "Latency" not in text
    assert "## Recipes" not in text


@pytest.mark.parametrize(
    ("failures", "published", "outcome"),
    [
        ((), True, "published"),
        ((), False, "passed, not published"),
        (("x",), True, "published as failing"),
        (("x",), False, "refused"),
    ],
)
def test_outcomes(failures: tuple[str, ...], published: bool, outcome: str) -> None:
    assert replace(variant("a", 0.1), failures=failures, published=published).outcome == outcome


def test_table() -> None:
    assert table(("a", "b"), [["x|y", "1"]]) == "| a | b |\n| --- | --: |\n| x\\|y | 1 |"
