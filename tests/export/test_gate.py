import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn

from export.demo.model import CHECKPOINT, CONFIG
from export.errors import GateError
from export.gate import measurement, runners
from export.gate.evaluation import EvaluationSet, built_in, drawn
from export.gate.metrics import Vectors
from export.gate.reference import Inputs, References, prepare, references
from export.gate.thresholds import DEFAULT_THRESHOLDS, failures, unjudged
from export.precision import processor
from export.source.checkpoint import Checkpoint, load_checkpoint
from export.source.encoders import ImageEncoder, token_lengths
from gateway.models.gate import (
    Agreement,
    EncoderFigures,
    Measured,
    Ranking,
    Recall,
    Retrieval,
    Run,
    Thresholds,
    ZeroShot,
)
from gateway.models.manifest import (
    PIXELS,
    TOKEN_IDS,
    Manifest,
    Preprocessing,
    golden_pixels,
    read_repository,
)
from tests.conftest import REPOSITORY
from tests.export.conftest import Exported

MAX_BATCH = 8
FILLER = 99  # token id that no row has


def unit(count: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, 16))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


# Encoders that look up what PyTorch says: a picture is its own row, a text's last id is its row.
TRUTH = References(unit(6), unit(10, seed=1))
RIGHT = (TRUTH.image @ TRUTH.text[6:].reshape(2, 2, -1).sum(1).T).argmax(1)  # two prompts a class
PAIRS = tuple((TRUTH.image @ TRUTH.text[:6].T).argmax(1).tolist())
LABELS = (*RIGHT[:4].tolist(), None, int(1 - RIGHT[5]))
WHAT = EvaluationSet(
    pictures=(b"",) * 6,
    texts=tuple("abcdef"),
    pairs=PAIRS,
    classes=("cat", "dog"),
    labels=LABELS,
)
LENGTHS = (2, 3, 2, 5, 3, 2, 3, 3, 3, 3)  # tokens of each text
INPUTS = Inputs(
    np.arange(6, dtype=np.uint8)[:, None, None, None],
    tuple(np.array([FILLER] * (n - 1) + [row], np.int32) for row, n in enumerate(LENGTHS)),
    pad_id=0,
)


def look_up_image(batch: NDArray[Any]) -> Vectors:
    return np.asarray(TRUTH.image[batch[:, 0, 0, 0]])


def look_up_text(batch: NDArray[Any]) -> Vectors:
    rows = [int(ids[ids != FILLER][0]) for ids in batch]
    return TRUTH.text[rows]


def evaluate(
    image: runners.RunEncoder = look_up_image,
    text: runners.RunEncoder = look_up_text,
    **options: Any,
) -> measurement.Evaluation:
    short = options.pop("short", text)
    return measurement.evaluate(
        image, {3: short, 5: text}, INPUTS, TRUTH, WHAT,
        **{"max_batch": 4} | options,
    )  # fmt: skip


def test_perfect_encoders() -> None:
    found = evaluate()
    measured = found.measured
    assert measured.image.min_cosine == pytest.approx(1)
    assert measured.text.mean_cosine == pytest.approx(1)
    assert measured.agreement == Agreement(candidates=2, top1=1, top5=1)
    assert measured.zero_shot is not None
    assert measured.zero_shot.accuracy == measured.zero_shot.pytorch_accuracy
    assert measured.zero_shot.pictures == 5
    assert measured.retrieval is not None
    assert measured.retrieval.recall == measured.retrieval.pytorch_recall
    assert found.image_cosines.shape == (6,)
    assert found.text_cosines.shape == (10,)
    assert failures(measured, DEFAULT_THRESHOLDS["fp32"]) == []


@pytest.mark.parametrize(
    ("max_batch", "small_batch_items", "expected"),
    [
        (1, 64, {(1, 6)}),
        (2, 64, {(1, 6), (2, 6)}),
        (4, 64, {(1, 6), (2, 6), (4, 6)}),
        (4, 3, {(1, 3), (2, 3), (4, 6)}),
        (9, 64, {(1, 6), (2, 6), (9, 6)}),
    ],
)
def test_batch_sizes(
    max_batch: int, small_batch_items: int, expected: set[tuple[int, int]]
) -> None:
    sizes, seen = set(), set()

    def run(batch: NDArray[Any]) -> Vectors:
        sizes.add(len(batch))
        if len(batch) == max_batch:
            seen.update(batch.ravel().tolist())
        return look_up_image(batch)

    runs = evaluate(
        run, max_batch=max_batch, small_batch_items=small_batch_items
    ).measured.image.runs
    assert {(run.batch, run.items) for run in runs} == expected
    assert sizes == {size for size, _ in expected}
    assert seen == set(range(6))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_one_bad_item_at_one_batch_size_shows(size: int) -> None:
    def run(batch: NDArray[Any]) -> Vectors:
        vectors = look_up_image(batch).copy()
        if len(batch) == size:
            vectors[0] = -vectors[0]
        return vectors

    image = evaluate(run).measured.image
    assert image.min_cosine == pytest.approx(-1)
    assert [run.batch for run in image.runs if run.min_cosine < 0] == [size]


def test_a_run_has_the_lowest_the_mean_and_the_first_percentile() -> None:
    def run(batch: NDArray[Any]) -> Vectors:
        vectors = look_up_image(batch).copy()
        vectors[: len(batch) == 8] *= -1
        return vectors

    largest = evaluate(run, max_batch=8).measured.image.runs[-1]
    cosines = (largest.min_cosine, largest.mean_cosine, largest.p1_cosine)
    assert cosines == pytest.approx((-1, 0.75, -0.86))  # of one at -1 and seven at 1


def test_texts_run_at_each_length_that_holds_them() -> None:
    widths: dict[int, set[int]] = {3: set(), 5: set()}

    def run(batch: NDArray[Any]) -> Vectors:
        widths[batch.shape[1]].update(int(ids[ids != FILLER][0]) for ids in batch)
        return look_up_text(batch)

    runs = evaluate(text=run).measured.text.runs
    assert widths == {3: set(range(10)) - {3}, 5: set(range(10))}
    assert {(run.length, run.items) for run in runs} == {(3, 9), (5, 10)}


@pytest.mark.parametrize("length", [3, 5])
def test_one_bad_length_shows_in_every_figure(length: int) -> None:
    def run(batch: NDArray[Any]) -> Vectors:
        vectors = look_up_text(batch)
        return -vectors if batch.shape[1] == length else vectors

    found = evaluate(text=run).measured
    assert found.text.min_cosine == pytest.approx(-1)
    assert found.agreement.top1 == 0
    assert found.zero_shot is not None
    assert found.zero_shot.accuracy == pytest.approx(0.2)
    assert found.zero_shot.pytorch_accuracy == pytest.approx(0.8)
    assert found.retrieval is not None
    assert found.retrieval.recall.image_to_text_at_1 < 1
    assert found.retrieval.pytorch_recall.image_to_text_at_1 == 1


def test_a_length_that_holds_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="fits 1 tokens"):
        measurement.evaluate(look_up_image, {1: look_up_text}, INPUTS, TRUTH, WHAT, 4)


def test_vectors_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(GateError, match=r"gives \(8, 3\) for 8 items, .* vectors of 16"):
        evaluate(lambda batch: look_up_image(batch)[:, :3])


@pytest.mark.parametrize("factor", [2.0, 0.0, np.nan, np.inf])
def test_vectors_not_of_length_one_fail_whatever_is_asked(factor: float) -> None:
    with np.errstate(invalid="ignore"):
        wrong = TRUTH.image * np.float32(factor)
    measured = evaluate(lambda batch: wrong[batch[:, 0, 0, 0]]).measured
    assert measured.image.bad_vectors == sum(-(-6 // n) * n for n in (1, 2, 4))
    assert failures(measured, Thresholds()) == [
        f"the image encoder gave {measured.image.bad_vectors} vectors that are not of length 1"
    ]
    json.dumps(asdict(measured), allow_nan=False)


def figures(minimum: float = 1.0, mean: float = 1.0) -> EncoderFigures:
    return EncoderFigures.of([Run(None, 1, 9, minimum, mean, minimum, 0)])


def ranked(batch: int, accuracy: float, **figures: Any) -> Ranking:
    zero_shot = ZeroShot(200, accuracy, 0.92)
    return Ranking(16, batch, 200, 99, figures.get("agreement", Agreement(48, 1, 1)), zero_shot,
                   figures.get("retrieval"))  # fmt: skip


def test_failures_name_the_figure_and_by_how_much() -> None:
    measured = Measured.of(
        figures(0.9994, 0.9996), figures(0.9, 0.95), [ranked(1, 0.92), ranked(2, 0.9)]
    )
    asked = Thresholds(min_cosine=0.9995, mean_cosine=0.99, accuracy_loss=1)
    assert failures(measured, asked) == [
        "the image encoder's lowest cosine to PyTorch FP32 is 0.9994000, 0.0001 short of 0.9995",
        "the text encoder's lowest cosine to PyTorch FP32 is 0.9000000, 0.1 short of 0.9995",
        "the text encoder's mean cosine to PyTorch FP32 is 0.9500000, 0.04 short of 0.99",
        "zero-shot accuracy is 90.00 %, 2.00 points below PyTorch's 92.00 %, 1.00 more than the "
        "1 allowed (at batch 2, with text at 16 tokens)",
    ]
    assert failures(measured, replace(asked, accuracy_loss=2))[-1].startswith("the text encoder")
    assert failures(measured, Thresholds()) == []


def test_recall_and_agreement_are_judged_where_asked() -> None:
    recall, true = Recall(0.5, 0.8, 0.6, 0.9), Recall(0.5, 0.8, 0.65, 0.9)
    rankings = [
        ranked(1, 0.92, retrieval=Retrieval(9, true, true), agreement=Agreement(48, 0.9, 1)),
        ranked(2, 0.92, retrieval=Retrieval(9, recall, true)),
    ]
    measured = Measured.of(figures(), figures(), rankings)
    assert failures(measured, Thresholds()) == []
    assert failures(measured, Thresholds(recall_loss=5, agreement=0.9)) == []
    assert failures(measured, Thresholds(recall_loss=2, agreement=0.97)) == [
        "text to image, recall@1 is 60.00 %, 5.00 points below PyTorch's 65.00 %, 3.00 more than "
        "the 2 allowed (at batch 2, with text at 16 tokens)",
        "90.00 % of the first candidates are PyTorch's, 7.00 points short of 97 % (at batch 1, "
        "with text at 16 tokens)",
    ]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("encoder", ["image", "text"])
def test_one_bad_batch_size_shows_in_its_rankings_and_is_judged(size: int, encoder: str) -> None:
    def spoilt(run: runners.RunEncoder) -> runners.RunEncoder:
        return lambda batch: -run(batch) if len(batch) == size else run(batch)

    right = {"image": look_up_image, "text": look_up_text}
    measured = evaluate(**{**right, encoder: spoilt(right[encoder])}).measured
    places = [(each.batch, each.length) for each in measured.rankings]
    assert places == [(batch, length) for batch in (1, 2, 4) for length in (3, 5)]
    for each in measured.rankings:
        assert (each.agreement.top1 == 0) == (each.batch == size)
        assert each.zero_shot is not None
        assert (each.zero_shot.accuracy < each.zero_shot.pytorch_accuracy) == (each.batch == size)
        assert each.retrieval is not None
        assert (each.retrieval.recall != each.retrieval.pytorch_recall) == (each.batch == size)
        assert (each.pictures, each.texts) == (6, 10)
    assert measured.agreement.top1 == 0
    [line] = failures(measured, Thresholds(accuracy_loss=1))
    assert f"at batch {size}, with text at" in line


def test_small_batches_may_be_measured_on_fewer_items() -> None:
    measured = evaluate(small_batch_items=3).measured
    counts = [(each.batch, each.length, each.pictures, each.texts) for each in measured.rankings]
    assert counts == [
        (1, 3, 3, 3), (1, 5, 3, 3), (2, 3, 3, 3), (2, 5, 3, 3), (4, 3, 6, 10), (4, 5, 6, 10),
    ]  # fmt: skip
    first, *_, last = measured.rankings
    assert first.zero_shot is not None
    assert first.zero_shot.pictures == 3
    assert measured.zero_shot == last.zero_shot
    assert measured.zero_shot is not None
    assert measured.zero_shot.pictures == 5


@pytest.mark.parametrize(
    ("precision", "lowest", "mean"),
    [("fp32", 0.99999, 1), ("fp16", 0.9995, 1), ("int8", 0.5, 0.99)],
)
def test_default_thresholds(precision: str, lowest: float, mean: float) -> None:
    def passes(lowest: float, mean: float, accuracy: float = 0.91) -> bool:
        encoder = figures(lowest, mean)
        measured = Measured.of(encoder, encoder, [ranked(1, 0.92), ranked(8, accuracy)])
        return not failures(measured, DEFAULT_THRESHOLDS[precision])

    assert passes(lowest, mean)
    below = (lowest, mean - 1e-6) if precision == "int8" else (lowest - 1e-6, mean)
    assert not passes(*below)
    assert passes(lowest, mean, accuracy=0.909) == (precision != "int8")


Tiny = tuple[Checkpoint, EvaluationSet, References, Inputs, Manifest, Path]


@pytest.fixture(scope="module")
def tiny(exported: Callable[[str], Exported], model_of: Callable[[str], str]) -> Tiny:
    manifest, root = exported("vit")
    checkpoint = load_checkpoint(model_of("vit"))
    what = built_in(manifest.preprocessing.image_size).joined(drawn(48))
    inputs = prepare(what, manifest.preprocessing, manifest.tokenizer, root)
    return checkpoint, what, references(checkpoint, what), inputs, manifest, root


def files_of(tiny: Tiny) -> tuple[Path, dict[int, Path]]:
    *_, manifest, root = tiny
    version = str(manifest.version)
    texts = {t.length: root / t.name / version / "model.onnx" for t in manifest.triton.text}
    return root / manifest.triton.image.name / version / "model.onnx", texts


def measure(tiny: Tiny, image: Path, texts: dict[int, Path]) -> Measured:
    _, what, truth, inputs, *_ = tiny
    run_image, run_texts = runners.onnx_runner(image, PIXELS), runners.text_runners(texts)
    return measurement.evaluate(run_image, run_texts, inputs, truth, what, MAX_BATCH).measured


def test_an_exported_model_passes_as_fp32(tiny: Tiny) -> None:
    _, what, truth, inputs, manifest, _ = tiny
    measured = measure(tiny, *files_of(tiny))
    assert failures(measured, DEFAULT_THRESHOLDS["fp32"]) == []
    assert measured.agreement.candidates == 48
    assert measured.zero_shot is not None
    assert measured.zero_shot.pictures == 48
    assert {run.length for run in measured.text.runs} == set(manifest.token_lengths)
    assert {run.batch for run in measured.text.runs} == {1, 2, MAX_BATCH}
    assert truth.text.shape == (len(what.all_texts), manifest.embedding_size)
    assert inputs.pixels.dtype == np.uint8


def changed(path: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    proto = onnx.load(path)
    change(proto)
    onnx.save(proto, folder / "broken.onnx")
    return folder / "broken.onnx"


def four_bits(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.FLOAT and weights.ndim >= 2:
            step = np.abs(weights).max() / 7 or 1
            rounded = (np.round(weights / step) * step).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))


def without_mask(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size and values.min() < -1e4:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(values), tensor.name))


def test_accuracy_that_was_not_measured_is_said() -> None:
    whole = evaluate().measured
    plain = replace(whole, zero_shot=None)
    int8 = DEFAULT_THRESHOLDS["int8"]
    alone = "zero-shot accuracy was not measured (no --evaluate): m was judged by its cosines alone"
    assert unjudged("m", plain, int8, evaluated=False) == [alone]
    assert unjudged("m", whole, int8, evaluated=True) == []
    assert unjudged("m", plain, DEFAULT_THRESHOLDS["fp16"], evaluated=False) == []
    [more] = unjudged("m", plain, replace(int8, agreement=0.5), evaluated=True)
    assert more.endswith("(the pictures of --evaluate have no classes): m was judged without it")


def test_recall_that_was_not_measured_is_said() -> None:
    whole = evaluate().measured
    limits = Thresholds(recall_loss=1.0)
    assert unjudged("m", whole, limits, evaluated=True) == []
    [note] = unjudged("m", replace(whole, retrieval=None), limits, evaluated=True)
    assert note.startswith("recall was not measured (no pictures with captions): m was judged")


def test_four_bit_weights_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    image, texts = files_of(tiny)
    measured = measure(tiny, changed(image, tmp_path, four_bits), texts)
    assert any(
        "image encoder's mean" in line for line in failures(measured, DEFAULT_THRESHOLDS["int8"])
    )
    assert measured.text.min_cosine > 0.99999


def test_a_demo_model_of_four_bits_loses_accuracy_and_is_refused(tmp_path: Path) -> None:
    manifest = read_repository(REPOSITORY)["demo"]
    checkpoint = load_checkpoint(str(CONFIG), str(CHECKPOINT))
    what = built_in(manifest.preprocessing.image_size).joined(drawn(144))
    inputs = prepare(what, manifest.preprocessing, manifest.tokenizer, REPOSITORY)
    demo = (checkpoint, what, references(checkpoint, what), inputs, manifest, REPOSITORY)
    image, texts = files_of(demo)
    whole = measure(demo, image, texts)
    assert failures(whole, DEFAULT_THRESHOLDS["fp32"]) == []
    assert whole.zero_shot is not None
    assert whole.zero_shot.accuracy > 0.9
    broken = measure(demo, changed(image, tmp_path, four_bits), texts)
    [cosine, accuracy] = failures(broken, DEFAULT_THRESHOLDS["int8"])
    assert cosine.startswith("the image encoder's mean cosine")
    assert accuracy.startswith("zero-shot accuracy is ")


def test_a_dropped_mask_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    image, texts = files_of(tiny)
    broken = changed(texts[16], tmp_path, without_mask)
    measured = measure(tiny, image, {**texts, 16: broken})
    assert any(
        "text encoder's mean" in line for line in failures(measured, DEFAULT_THRESHOLDS["int8"])
    )
    assert {run.length for run in measured.text.runs if run.mean_cosine < 0.99} == {16}


def test_the_references_are_open_clips(tiny: Tiny) -> None:
    checkpoint, what, truth, *_ = tiny
    with torch.inference_mode():
        ids = checkpoint.tokenizer([what.all_texts[0], what.prompts[-1]])
        expected = checkpoint.model.encode_text(ids, normalize=True)
        golden = Image.fromarray(golden_pixels(32))
        picture = checkpoint.model.encode_image(checkpoint.transform(golden)[None], normalize=True)
    np.testing.assert_allclose(truth.text[[0, -1]], expected, atol=1e-6)
    np.testing.assert_allclose(truth.image[0], picture[0], atol=1e-6)


def test_files_that_do_not_load_or_run_are_named(tiny: Tiny, tmp_path: Path) -> None:
    image, texts = files_of(tiny)
    bad = tmp_path / "torn.onnx"
    bad.write_bytes(image.read_bytes()[:1000])
    with pytest.raises(GateError, match=r"torn\.onnx: ONNX Runtime cannot load it"):
        runners.onnx_runner(bad, PIXELS)
    with pytest.raises(GateError, match=r"refused: model\.onnx does not run at shape \(1, 99\)"):
        runners.onnx_runner(texts[16], TOKEN_IDS)(np.zeros((1, 99), np.int32))


@pytest.mark.parametrize(
    ("flags", "machine", "saturates"),
    [
        ("fpu avx2 avx512_vnni", "x86_64", False),
        ("fpu avx2 avx_vnni", "x86_64", False),
        ("fpu avx2 avx512f", "x86_64", True),
        ("asimd", "aarch64", False),
    ],
)
def test_int8_is_told_to_be_precise_where_it_would_saturate(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: str,
    machine: str,
    saturates: bool,
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert processor.saturates(cpuinfo, machine) == saturates
    monkeypatch.setattr(processor, "saturates", lambda: saturates)
    options = processor.session_options()
    if saturates:
        assert options.get_session_config_entry(processor.PRECISE) == "1"
    else:
        with pytest.raises(RuntimeError, match="does not have configuration"):
            options.get_session_config_entry(processor.PRECISE)


def test_a_picture_or_text_that_the_gateway_refuses_is_an_error(tiny: Tiny) -> None:
    *_, manifest, root = tiny
    for what in (EvaluationSet((b"no picture",), ("x",)), EvaluationSet((), ("\ud800",))):
        with pytest.raises(GateError, match="the gateway refuses"):
            prepare(what, manifest.preprocessing, manifest.tokenizer, root)


class Identity(nn.Module):
    def encode_image(self, image: torch.Tensor, normalize: bool) -> torch.Tensor:
        assert not normalize
        return image.flatten(1)


def test_normalisation_is_that_of_open_clip() -> None:
    rules = Preprocessing(
        image_size=16, mean=(0.48, 0.45, 0.4), std=(0.26, 0.25, 0.27), resize_mode="shortest",
        interpolation="bicubic",
    )  # fmt: skip
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    transform = image_transform_v2(
        PreprocessCfg(size=16, mean=rules.mean, std=rules.std), is_train=False
    )
    expected = nn.functional.normalize(transform(Image.fromarray(pixels)).flatten(), dim=0)
    found = ImageEncoder(Identity(), rules)(torch.from_numpy(pixels)[None])[0]
    assert torch.allclose(found, expected, atol=1e-7, rtol=0)


def test_token_lengths() -> None:
    assert token_lengths((16, 24, 32), 77, any_length=True) == (16, 24, 32, 77)
    assert token_lengths((32, 16, 16, 99, 77), 77, any_length=True) == (16, 32, 77)
    assert token_lengths((16, 24, 32), 64, any_length=False) == (64,)
    assert token_lengths((), 77, any_length=True) == (77,)
