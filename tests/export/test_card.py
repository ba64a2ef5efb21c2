"""The model card: what it says, and where the licence comes from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from export.gate.variant_report import Latency
from export.report.card import about, card
from export.source import origin
from export.source.origin import Origin, find_origin
from export.source.spec import Source
from gateway.models.gate import DataSetFigures, Speed
from gateway.models.manifest import MAX_CARD_BYTES, Manifest, read_repository
from tests.conftest import REPOSITORY
from tests.export.conftest import Exported


@pytest.fixture(scope="module")
def demo() -> Manifest:
    return read_repository(REPOSITORY)["demo"]


def test_an_export_publishes_a_card(exported: Callable[[str], Exported]) -> None:
    manifest, root = exported("vit")
    assert manifest.card == f"{manifest.id}.1.card.md"
    assert manifest.card in manifest.files
    text = (root / manifest.card).read_text()
    assert text.startswith(f"# {manifest.id}\n")
    assert manifest.fingerprint in text
    assert "its vectors mean nothing" in text
    assert f"| image | {manifest.gate.image.min_cosine:.7f} |" in text
    assert "| encoder, at batch 1 | p50, ms | p99, ms |" in text
    assert "p99 includes the delays" in text


def test_figures_origin_and_licence(demo: Manifest) -> None:
    figures = DataSetFigures("cars", 7, {"acc1": 0.5}, {"acc1": 0.75})
    gate = replace(
        demo.gate, data_sets=(figures,), failures=("too far off",), processor="A | CPU",
        speeds=(Speed(8, 1.5, 2.5, 1.75),),
    )  # fmt: skip
    changed = {"gate": gate, "precision": "int8", "recipe": {"image": "plain"}}
    made = card(demo.model_copy(update=changed), "org/name", "mit", [("image", Latency(1.25, 2.5))])
    for expected in (
        "| from | `org/name` on the Hugging Face hub |",
        "| licence of the weights | mit |",
        "| cars | 7 | acc1 | 0.7500 | 0.5000 |",
        "| zero-shot accuracy | 100.00 | 100.00 |",
        "- fell short: too far off",
        "It runs as int8 in onnxruntime.",
        "Made INT8 by image: plain.",
        "On the machine that exported it: A ? CPU.",
        "| image | 1.25 | 2.50 |",
        "| 8 | 1.50 | 2.50 | 1.75 |",
        "INT8 in NVIDIA's own ONNX Runtime backend is less accurate",
    ):
        assert expected in made
    fp8 = {"precision": "fp8", "runtime": "tensorrt", "recipe": {"image": "fp8, minmax"}}
    assert "Made FP8 by image: fp8, minmax." in card(demo.model_copy(update=fp8))
    plain = card(demo)
    assert "| from | not known |" in plain
    assert "| licence of the weights | not known |" in plain
    assert "ask whoever made the weights" in plain
    assert "## Speed" not in plain
    assert about(demo) in plain


def test_names_of_others_stay_in_their_cells(demo: Manifest) -> None:
    hostile = "x` |\n# <script>" + "y" * 10**6
    made = card(demo.model_copy(update={"pretrained": hostile}), hostile, hostile)
    assert "<script>" not in made
    assert "\n# x" not in made
    many = tuple(DataSetFigures("é" * 100, 1, {"acc1": 1.0}, {"acc1": 1.0}) for _ in range(5000))
    gate = replace(demo.gate, data_sets=many)
    made = card(demo.model_copy(update={"gate": gate}))
    assert MAX_CARD_BYTES - 4 <= len(made.encode()) <= MAX_CARD_BYTES


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n# x", "mit"),
        ("---\nlicense: other\nlicense_name: apple-amlr\n---\n", "apple-amlr"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlicense: [1, {}]\n---\n", None),
        ("---\n: : :\n---\n", None),
        ("no header", None),
        ("---\nlicense: mit\n---\n" + "x" * origin.MAX_CARD_BYTES, None),
        (None, None),
    ],
)
def test_the_licence_is_that_of_the_folders_card(
    tmp_path: Path, text: str | None, licence: str | None
) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    source = Source("x", "x", {}, file=tmp_path / "x.bin", folder=tmp_path)
    assert find_origin(source) == Origin(None, licence)


def test_the_origin_of_tags_and_hub_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def licence(name: str) -> str:
        asked.append(name)
        return "mit"

    monkeypatch.setattr(origin, "_licence", licence)
    tag = Source("ViT-B-32", "ViT-B-32", {}, "laion2b_s34b_b79k", downloads=True)
    assert find_origin(tag) == Origin("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "mit")
    assert find_origin(Source("hf-hub:o/n", "o/n", {}, downloads=True)) == Origin("o/n", "mit")
    assert asked == ["laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "o/n"]
    assert find_origin(Source("ViT-B-32", "ViT-B-32", {}, "x.pt", file=Path("x.pt"))) == Origin()
    assert len(asked) == 2
