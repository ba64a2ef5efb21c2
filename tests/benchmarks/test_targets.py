import math

import pytest

from benchmarks.reporting import targets
from benchmarks.reporting.results import Row

ROW = {"per_second": 10.0, "p50_ms": 100.0, "p99_ms": 150.0, "mean_batch": 5.0}


def row(system: str, kind: str, load: int | None, **values: float) -> Row:
    labels: dict[str, str | int] = {"system": system, "kind": kind}
    return Row(labels if load is None else labels | {"concurrency": load}, ROW | values)


def measured() -> list[Row]:
    kinds = [(targets.IMAGE, load) for load in (1, 8, 32)]
    kinds += [(targets.CAPTION, load) for load in (8, 32)]
    rows = [row(targets.OURS, kind, load) for kind, load in kinds]
    rows += [
        row(targets.OURS, targets.LABEL_SET, 8),
        row(targets.CEILING, "image", None, per_second=11.0, p50_ms=90.0),
        row(targets.CEILING, "text", None, per_second=11.0),
        row(targets.CEILING, "encode-text", None, per_second=1.0),
        Row({"system": targets.CEILING, "kind": "text", "batch": 8}, {"per_second": 1.0}),
        row(targets.PADDED, targets.CAPTION, 32, per_second=2.0),
        row(targets.OPEN_LOOP, targets.IMAGE, None, p99_ms=250.0),
        row(targets.OPEN_LOOP, targets.CAPTION, None, p99_ms=350.0),
        Row({"system": targets.OURS, "kind": "memory"},
            {"gateway_mb": 150.0, "triton_mb": 900.0, "weights_mb": 700.0}),
    ]  # fmt: skip
    return rows


@pytest.mark.parametrize(
    ("name", "value", "passed"),
    [
        ("image, 8 at a time: images/s of ceiling", 10 / 11, True),
        ("image, 1 at a time: p50 of encoder alone + decode", 100 / 90, True),
        ("caption, 32 at a time: texts/s of encoder alone", 10 / 11, True),
        ("caption, 32 at a time: mean Triton batch", 5, True),
        ("caption, 32 at a time: texts/s of the model padded", 5, True),
        ("caption, 32 at a time: p99 / p50", 1.5, True),
        ("open loop, image, 70 % of capacity: p99 / p50", 2.5, True),
        ("open loop, caption, 70 % of capacity: p99 / p50", 3.5, False),
        ("zero-shot with a warm set of 1,000 labels: time of an image embedding", 1, True),
        ("gateway: resident MB", 150, True),
        ("Triton: MB beyond weights x instances", 200, True),
    ],
)
def test_targets(name: str, value: float, passed: bool) -> None:
    [found] = [check for check in targets.checks(measured()) if check.name == name]
    assert found.value == pytest.approx(value)
    assert found.passed is passed


def test_what_is_missing_fails() -> None:
    checks = targets.checks([row(targets.OURS, targets.IMAGE, 8)])
    missing = [check for check in checks if "ceiling" in check.name]
    assert missing
    assert all(math.isnan(check.value) and not check.passed for check in missing)


def test_a_model_without_packed_text_has_no_check_of_packing() -> None:
    rows = [row for row in measured() if row.labels["system"] != targets.PADDED]
    assert not [check for check in targets.checks(rows) if "the model padded" in check.name]


def test_medians_take_the_middle_and_add_up_errors() -> None:
    rows = [Row({"kind": "a"}, {"p50_ms": value, "errors": 1}) for value in (5.0, 1.0, 2.0)]
    rows.append(Row({"kind": "b"}, {"p50_ms": 7.0}))
    assert targets.medians(rows) == [
        Row({"kind": "a"}, {"p50_ms": 2.0, "errors": 3}),
        Row({"kind": "b"}, {"p50_ms": 7.0}),
    ]
