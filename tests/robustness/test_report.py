"""The report of the demo model, small, through the real service."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reporting.results import Results, Row
from benchmarks.systems import services
from benchmarks.traffic.errors import BenchmarkError
from robustness import __main__ as program
from robustness import drift, measure, page, pictures
from robustness.figures import ADVERSARIAL, DRIFT, FIT, GREY, PARTS, PIXELS, TEXT
from server.launcher import TritonServer
from tests.conftest import REPOSITORY, SAMPLES, GatewayClient, GatewayFactory

CLASSES = ("red_circle", "blue_star")


def report(output: Path, *words: str) -> list[Row]:
    assert program.main([*words, "--output", str(output)]) == 0
    return list(Results.read(output / "robustness.benchmark.json").rows)


def cosines(rows: list[Row], part: str, change: str) -> dict[str, float]:
    """Medians by strength."""
    chosen = {"part": part, "change": change}
    return {
        str(row.labels["strength"]): row.values["cosine"]
        for row in rows
        if chosen.items() <= row.labels.items()
    }


def test_a_running_service_is_measured_in_every_part(
    api: GatewayClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "ATTACKED", 2)
    elsewhere = ["--url", api.grpc_address, "--repository", str(tmp_path)]
    rows = report(tmp_path, *elsewhere, "--model", "demo", "--count", "6", "--budget", "550")
    assert {row.labels["part"] for row in rows} == {*PARTS, FIT}
    one = pytest.approx(1, abs=1e-5)
    for name in ("grey pixels", "grey blocks"):
        grey = cosines(rows, GREY, name)
        assert len(grey) == 11
        assert grey["0"] == one
        assert grey["100"] < 0.9
    assert all(row.values["slope"] < 0 for row in rows if row.labels["part"] == FIT)
    assert list(cosines(rows, PIXELS, "EXIF tag alone").values()) == [one] * 3
    noise = cosines(rows, PIXELS, "Gaussian noise")
    assert noise["0.02"] > 0.99 > noise["0.4"]
    assert cosines(rows, DRIFT, drift.NONE)[""] == one
    assert not cosines(rows, DRIFT, drift.FAST)
    cut = cosines(rows, TEXT, "cut")
    assert cut["5"] < cut["40"] == one  # its context has 32 tokens
    assert cosines(rows, TEXT, "case")["upper"] == one
    attacks = [row for row in rows if row.labels["part"] == ADVERSARIAL]
    assert len(attacks) == 2
    for row in attacks:
        assert row.values["embedded"] <= 550
        assert bool(row.values["pixels"]) == bool(row.labels["becomes"])
        assert row.labels["becomes"] != row.labels["label"]
    text = (tmp_path / "robustness.md").read_text()
    assert page.NOT_FAST in text
    assert "6 pictures, 48 classes" in text
    for part in PARTS:
        assert f"(robustness-{part}.png)" in text
        assert (tmp_path / f"robustness-{part}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_gateways_of_its_own_have_the_fast_mode_too(
    triton: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(triton.config.secret)
    running = services.Triton(0, triton.addresses.grpc, "", secret)
    monkeypatch.setattr(services, "triton", lambda *_: nullcontext(running))
    words = ["--repository", str(REPOSITORY), "--model", "demo", "--count", "4", "--parts", DRIFT]
    rows = report(tmp_path, *words)
    assert 0.99 < cosines(rows, DRIFT, drift.FAST)[""] < 1
    assert page.NOT_FAST not in (tmp_path / "robustness.md").read_text()


def test_a_service_that_heeds_orientation_turns_pictures_back(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    with start_gateway(triton_address=triton.addresses.grpc, exif_orientation=True) as gateway:
        words = ["--images", str(SAMPLES), "--count", "2", "--parts", PIXELS]
        rows = report(tmp_path, "--url", gateway.grpc_address, *words)
    turned = cosines(rows, PIXELS, "EXIF tag on turned pixels")
    assert list(turned.values()) == [pytest.approx(1, abs=1e-5)] * 3
    assert max(cosines(rows, PIXELS, "EXIF tag alone").values()) < 0.999
    assert not [row for row in rows if "accuracy" in row.values]  # they have no classes
    assert rows[0].values["top_1_kept"] == 1
    assert "2 pictures, without classes" in (tmp_path / "robustness.md").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures of two classes."""
    files = pictures.drawn(6, 0, 64).files
    for i, data in enumerate(files):
        path = tmp_path / "pictures" / CLASSES[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "pictures"


def test_classes_are_folders(folder: Path) -> None:
    found = pictures.read(folder, 4, 0)
    assert found.classes == ("blue star", "red circle")
    assert found.names == (
        *(f"blue_star/{i}.jpg" for i in (1, 3)),
        "red_circle/0.jpg",
        "red_circle/2.jpg",
    )
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert len(found.captions) == 4


def mix(folder: Path) -> None:
    (folder / "1.jpg").write_bytes(b"")


def merge(folder: Path) -> None:
    (folder / CLASSES[0]).rename(folder / "away").joinpath("0.jpg").unlink()
    for path in (folder / "away").iterdir():
        path.unlink()


def spoil(folder: Path) -> None:
    (folder / CLASSES[0] / "0.jpg").write_bytes(b"not a picture")


@pytest.mark.parametrize(
    ("change", "message"),
    [(mix, "or none"), (merge, "two or more folders"), (spoil, "a picture cannot be used")],
)
def test_pictures_that_cannot_be_used_are_refused(
    api: GatewayClient, folder: Path, change: Callable[[Path], None], message: str
) -> None:
    change(folder)
    with pytest.raises(BenchmarkError, match=message):
        report(folder, "--url", api.grpc_address, "--images", str(folder), "--parts", DRIFT)


def test_a_fault_is_named_from_a_file_of_vectors(
    api: GatewayClient, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--url", api.grpc_address, "--images", str(folder), "--recognise"]
    assert program.main([*words, "1"]) == 0
    assert "demo: most likely no fault" in capsys.readouterr().out
    for wrong, message in (
        ("vectors.npy", "an array of 6 cosines, or one of 6 x 64"),
        ("much", "give a number"),
        ("empty.npy", "give a number"),
    ):
        (tmp_path / "empty.npy").touch()
        np.save(tmp_path / "vectors.npy", np.zeros((5, 64)))
        with pytest.raises(BenchmarkError, match=message):
            program.main([*words, str(tmp_path / wrong)])
    np.save(tmp_path / "cosines.npy", np.array([0.2, 0.9, -0.1, 0.4, 0.3, 0.8]))
    assert program.main([*words, str(tmp_path / "cosines.npy")]) == 0
    assert "| fault | distance from the observation |" in capsys.readouterr().out


def test_what_the_service_does_not_have_is_said(api: GatewayClient) -> None:
    with pytest.raises(BenchmarkError, match="there are: demo"):
        program.main(["--url", api.grpc_address, "--model", "nothing"])
    with pytest.raises(BenchmarkError, match="the service: "):
        program.main(["--url", api.grpc_address, "--tls"])
