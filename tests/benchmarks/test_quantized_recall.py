"""Recall of quantized vectors against float vectors."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.reporting.quantized_recall import main, recalls
from benchmarks.traffic.errors import BenchmarkError
from tests.conftest import SAMPLES, GatewayClient


def vectors(floats: np.ndarray) -> dict[str, np.ndarray]:
    unit = floats / np.linalg.norm(floats, axis=1, keepdims=True)
    scaled = np.rint(127 * unit / np.abs(unit).max(axis=1, keepdims=True))
    return {"float": unit, "int8": scaled, "ubinary": np.packbits(unit > 0, axis=1)}


def test_recall() -> None:
    drawn = np.random.default_rng(0).normal(size=(520, 64))
    documents, queries = vectors(drawn[:500]), vectors(drawn[500:])
    found = {size: recall for _, size, recall in recalls(documents, queries)}
    int8, binary = found[64], found[8]
    assert 90 < int8 <= 100
    assert 10 < binary < int8
    expected = []
    for query, signs in zip(queries["float"], queries["ubinary"], strict=True):
        true = np.argsort(-(documents["float"] @ query))[:10]
        distances = np.unpackbits(documents["ubinary"] ^ signs, axis=1).sum(axis=1)
        near = np.argsort(distances, kind="stable")[:40]
        best = near[np.argsort(-(documents["float"][near] @ query))[:10]]
        expected.append(len({*true} & {*best}) / 10)
    assert found[72] == pytest.approx(100 * np.mean(expected), abs=5)  # int8 for float documents


def test_signs_alone_lose_nothing() -> None:
    signs = vectors(np.random.default_rng(1).choice([-1.0, 1.0], size=(60, 64)))
    assert {recall for *_, recall in recalls(signs, signs)} == {100.0}


def test_it_measures_a_service(
    api: GatewayClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a red circle\na blue star\n")
    address = ["--address", api.base_url.netloc.decode()]
    assert main([str(SAMPLES), str(texts), *address, "--model", "demo"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("2 queries, 12 documents\n")
    assert "| int8 | 64 |" in printed


@pytest.mark.parametrize(("given", "said"), [("missing", "No such file"), (".", "HTTP 400")])
def test_what_cannot_be_embedded(api: GatewayClient, tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(BenchmarkError, match=said):
        main([str(tmp_path / given), str(SAMPLES), "--address", api.base_url.netloc.decode()])
