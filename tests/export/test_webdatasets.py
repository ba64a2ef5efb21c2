"""Data sets in CLIP_benchmark's layout: read, measured as that package does, and bounded."""

import gc
import itertools
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from export.command.pipeline import evaluation_set
from export.demo.model import CHECKPOINT, CONFIG, create_demo
from export.demo.scenes import LABELS, draw_scenes
from export.errors import ExportError
from export.gate import measurement, runners
from export.gate.benchmark import benchmark
from export.gate.evaluation import EvaluationSet, built_in
from export.gate.reference import References, prepare, references
from export.gate.samples import png
from export.gate.thresholds import DEFAULT_THRESHOLDS, failures, unjudged
from export.publish.job import Options
from export.source.checkpoint import load_checkpoint
from export.storage import shard, webdataset
from export.storage.data_set import DataSet
from export.storage.webdataset import read_data_set
from gateway.models.gate import (
    DATA_SET_ACCURACY,
    DATA_SET_RECALLS,
    Measured,
    Thresholds,
)
from gateway.models.manifest import PIXELS, TOKEN_IDS, read_repository
from tests.conftest import REPOSITORY
from tests.export import hub
from tests.export.data_sets import (
    TEMPLATES,
    Files,
    noisy,
    write,
    write_captions,
    write_scenes,
)

BATCH = 16


def picture(number: int = 0) -> bytes:
    return png(draw_scenes(number + 1, seed=5, size=32)[number].image)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("sets") / "scenes")


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captions(tmp_path_factory.mktemp("sets") / "captions")


def test_the_layout_is_read(scenes: Path, captions: Path) -> None:
    labelled = read_data_set(str(scenes), "test")
    assert labelled.name == "scenes"
    assert labelled.classes == LABELS
    assert labelled.templates == TEMPLATES
    assert labelled.texts[:4] == (*(t.format(c=LABELS[0]) for t in TEMPLATES), f"a {LABELS[1]}")
    drawn = enumerate(draw_scenes(3, seed=77))
    assert labelled.pictures[:3] == tuple(noisy(*each) for each in drawn)
    assert labelled.labels[:49] == (*range(48), 1)
    retrieved = read_data_set(str(captions), "test")
    assert retrieved.owners[:6] == (0, 1, 1, 2, 2, 2)
    assert retrieved.captions[1:3] == (retrieved.texts[1], f"look, {retrieved.texts[1]}")
    assert len(set(retrieved.captions)) == len(retrieved.captions)


def test_at_a_url(scenes: Path, captions: Path) -> None:
    with hub.serving(hub.WebHandler) as (url, files):
        for path in scenes.rglob("*.*"):
            files.held[f"/{path.relative_to(scenes.parent)}"] = path.read_bytes()
        assert read_data_set(f"{url}/scenes", "test") == read_data_set(str(scenes), "test")
        del files.held["/scenes/classnames.txt"]
        with pytest.raises(ExportError, match=r"classnames\.txt is not there"):
            read_data_set(f"{url}/scenes", "test")
    memory = fsspec.filesystem("memory")
    memory.put(str(captions), "/bucket/captions", recursive=True)
    found = read_data_set("memory://bucket/captions", "test")
    memory.rm("/bucket", recursive=True)
    assert found == read_data_set(str(captions), "test")


@pytest.fixture(scope="module")
def evaluated(scenes: Path, captions: Path) -> EvaluationSet:
    return evaluation_set(Options("demo", REPOSITORY, evaluate=(str(scenes), str(captions))))


@pytest.fixture(scope="module")
def measured(evaluated: EvaluationSet) -> Measured:
    """The committed demo model, as an export measures it."""
    manifest = read_repository(REPOSITORY)["demo"]
    what = built_in(manifest.preprocessing.image_size).joined(evaluated)
    inputs = prepare(what, manifest.preprocessing, manifest.tokenizer, REPOSITORY)
    truth = references(load_checkpoint(str(CONFIG), str(CHECKPOINT)), what)
    image, text = (
        REPOSITORY / name / str(manifest.version) / "model.onnx"
        for name in (manifest.triton.image.name, manifest.triton.text[0].name)
    )
    run_text = runners.onnx_runner(text, TOKEN_IDS)
    return measurement.evaluate(
        runners.onnx_runner(image, PIXELS),
        dict.fromkeys((16, manifest.tokenizer.context_length), run_text),
        inputs, truth, what, BATCH, small_batch_items=8,
    ).measured  # fmt: skip


# It leaves files open, and to the library whether shards are shuffled.
@pytest.mark.filterwarnings(
    r"ignore:WebDataset\(shardshuffle:UserWarning", "ignore::ResourceWarning"
)
def test_figures_are_clip_benchmarks(
    measured: Measured, scenes: Path, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Imports for seconds.
    from clip_benchmark.datasets.builder import build_wds_dataset, image_captions_collate_fn
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    # NumPy no longer makes a float of an array of one.
    monkeypatch.setattr(zeroshot_classification, "float", _float, raising=False)
    demo = create_demo()
    labelled = build_wds_dataset("scenes", demo.transform, data_dir=str(scenes))
    of_classes = zeroshot_classification.evaluate(
        demo.clip, Batches(labelled), demo.tokenizer, labelled.classes, labelled.templates, "cpu",
        amp=False,
    )  # fmt: skip
    paired = build_wds_dataset("captions", demo.transform, data_dir=str(captions))
    of_captions = zeroshot_retrieval.evaluate(
        demo.clip, Batches(paired, image_captions_collate_fn), demo.tokenizer, "cpu", amp=False
    )
    del labelled, paired
    gc.collect()
    theirs = {"scenes": of_classes, "captions": of_captions}
    assert [each.name for each in measured.data_sets] == list(theirs)
    for each in measured.data_sets:
        for ours in (each.metrics, each.pytorch_metrics):
            assert ours == pytest.approx(theirs[each.name], abs=1e-6)
        assert min(each.metrics.values()) < 1  # else it would show little
    assert of_classes["acc1"] != of_classes["mean_per_class_recall"]
    assert of_captions[DATA_SET_RECALLS[0]] != of_captions[DATA_SET_RECALLS[1]]


def _float(given: Any) -> float:
    return float(np.asarray(given).item())


class Batches:
    """A loader of a webdataset, as CLIP_benchmark makes one with workers."""

    def __init__(
        self, dataset: Any, collate: Callable[..., Any] = torch.utils.data.default_collate
    ) -> None:
        self.dataset = dataset
        self._collate = collate

    def __iter__(self) -> Any:
        samples = iter(self.dataset)
        while part := list(itertools.islice(samples, BATCH)):
            yield self._collate(part)


def test_the_gate_reads_them(measured: Measured) -> None:
    limits = replace(DEFAULT_THRESHOLDS["int8"], recall_loss=2.0)
    assert failures(measured, limits) == []
    assert unjudged("demo", measured, limits, evaluated=True) == []
    labelled, paired = measured.data_sets
    worse = replace(labelled, metrics=labelled.metrics | {DATA_SET_ACCURACY: 0.5})
    lost = 100 * (labelled.pytorch_metrics[DATA_SET_ACCURACY] - 0.5)
    [line] = failures(replace(measured, data_sets=(worse, paired)), limits)
    assert line.startswith(f"acc1 is 50.00 %, {lost:.2f} points below PyTorch's ")
    assert line.endswith(f"{lost - 1:.2f} more than the 1 allowed (data set scenes)")
    worse = replace(paired, metrics=dict.fromkeys(DATA_SET_RECALLS, 0.25))
    found = failures(replace(measured, data_sets=(labelled, worse)), limits)
    assert [line.partition(" ")[0] for line in found] == list(DATA_SET_RECALLS)
    assert failures(replace(measured, data_sets=(labelled, worse)), Thresholds()) == []
    kept = replace(measured, data_sets=(paired,))
    assert len(unjudged("demo", kept, limits, evaluated=True)) == 1


def test_figures_of_a_few_classes() -> None:
    """CLIP_benchmark gives no `acc5` below five classes."""
    given = DataSet("few", (b"",) * 4, ("a", "b", "c"), ("{c}",), (0, 0, 1, 0))
    vectors = References(np.eye(3, dtype=np.float32)[[0, 1, 1, 0]], np.eye(3, dtype=np.float32))
    [found] = benchmark(vectors, vectors, EvaluationSet((), (), data_sets=(given,)))
    right = {"acc1": 0.75, "mean_per_class_recall": (2 / 3 + 1) / 2}
    assert found.metrics == found.pytorch_metrics == pytest.approx(right)


def sample(**changes: bytes | None) -> dict[str, bytes]:
    files = {"s0.png": picture(), "s0.cls": b"1"} | {
        name.replace("_", "."): content for name, content in changes.items()
    }
    return {name: content for name, content in files.items() if content is not None}


LISTS = {"classnames": "cat\ndog\n", "zeroshot_classification_templates": "a {c}\n"}


@pytest.mark.parametrize(
    ("files", "lists", "said"),
    [
        (sample(s0_cls=None), {}, r"test/0\.tar: s0 has no \.cls"),
        (sample(s0_png=None), {}, r"test/0\.tar: s0 has no picture \(webp, png, jpg, jpeg\)"),
        (sample(s0_cls=b"2"), {}, r"s0\.cls: is not a number below 2"),
        (sample(s0_cls=b"-1"), {}, r"s0\.cls: is not a number below 2"),
        (sample(s0_cls=b"\xff"), {}, r"s0\.cls: is not UTF-8"),
        (sample(s0_cls=b"9" * 9000), {}, r"s0\.cls: is not a number below 2"),
        (sample(s0_png=b"torn"), {}, r"test/0\.tar: s0\.png: not a picture"),
        ({"s0.png": picture(), "a/s0.cls": b"0"}, {}, r"test/0\.tar: s0 has no \.cls"),
        ({"s0.PNG": picture(), "s0.cls": b"0", "s0.png": b""}, {}, r"s0\.png is there twice"),
        ({}, {}, "the split test has no pictures"),
        (sample(), {"classnames": ""}, r"classnames\.txt: is empty"),
        (sample(), {"zeroshot_classification_templates": "a {}\n"}, r"line 1 has no \{c\}"),
        (sample(), {"dataset_type": "multilabel"}, r"dataset_type\.txt: 'multilabel' is not"),
        (sample(), {"dataset_type": "retrieval"}, r"s0 has no \.txt"),
        (sample(s0_txt=b""), {"dataset_type": "retrieval"}, r"s0\.txt: has no captions"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, files: Files, lists: Mapping[str, str], said: str
) -> None:
    folder = write(tmp_path / "cats", [files], **{**LISTS, **lists})
    with pytest.raises(ExportError, match=said):
        evaluation_set(Options("demo", tmp_path, evaluate=(str(folder),)))


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("classnames.txt", r"classnames\.txt is not there"),
        ("zeroshot_classification_templates.txt", "templates.txt is not there"),
        ("test/nshards.txt", r"test/nshards\.txt is not there"),
        ("test/0.tar", r"test/0\.tar is not there"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, missing: str, said: str) -> None:
    folder = write(tmp_path / "cats", [sample()], **LISTS)
    (folder / missing).unlink()
    with pytest.raises(ExportError, match=said):
        evaluation_set(Options("demo", tmp_path, evaluate=(str(folder),)))


@pytest.mark.parametrize("count", ["", "0", "x", "-1", "10001", "9" * 5000])
def test_a_wrong_number_of_shards_is_refused(tmp_path: Path, count: str) -> None:
    folder = write(tmp_path / "cats", [sample()], **LISTS)
    (folder / "test" / "nshards.txt").write_text(count)
    with pytest.raises(ExportError, match=r"nshards\.txt: is not a number from 1 to 10000"):
        read_data_set(str(folder), "test")


def test_another_split_and_a_name_that_comes_twice(tmp_path: Path) -> None:
    folder = write(tmp_path / "cats", [sample()], split="val", **LISTS)
    options = Options("demo", tmp_path, evaluate=(str(folder),), evaluate_split="val")
    assert evaluation_set(options).all_texts == ("a cat", "a dog")
    with pytest.raises(ExportError, match="are named cats; rename one"):
        evaluation_set(replace(options, evaluate=(str(folder), f"{folder}/")))


def header(**values: Any) -> bytes:
    member = tarfile.TarInfo("s0.png")
    for name, value in values.items():
        setattr(member, name, value)
    return member.tobuf(tarfile.GNU_FORMAT)


HUGE = 10**12


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header(size=HUGE), r"s0\.png has 1,000,000,000,000 bytes; at most"),
        (header(size=HUGE, name="no-ending"), "cannot be read as a tar|has a file of more"),
        (header(size=HUGE, type=tarfile.GNUTYPE_LONGNAME), "cannot be read|has a file of more"),
        (header(size=HUGE, type=tarfile.XHDTYPE), "cannot be read|has a file of more"),
        (b"no tar at all" * 99, "cannot be read as a tar"),
        (b"", "cannot be read as a tar"),
    ],
)
def test_a_hostile_shard_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    folder = write(tmp_path / "cats", [], **LISTS)
    (folder / "test" / "nshards.txt").write_text("1")
    with (folder / "test" / "0.tar").open("wb") as out:
        out.write(content)
        if content:
            out.truncate(2 * shard.MAX_MEMBER)  # with holes, which take no room
    with pytest.raises(ExportError, match=said) as refused:
        read_data_set(str(folder), "test")
    assert "test/0.tar" in str(refused.value)


def test_a_shard_without_an_end_is_refused() -> None:
    with hub.serving(hub.WebHandler) as (url, files):
        files.held["/cats/classnames.txt"] = b"cat\n"
        files.held["/cats/zeroshot_classification_templates.txt"] = b"{c}"
        files.held["/cats/test/nshards.txt"] = b"1"
        files.endless.add("/cats/test/0.tar")
        with pytest.raises(ExportError, match=r"test/0\.tar|no pictures"):
            read_data_set(f"{url}/cats", "test")


def test_a_shard_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "cats", [sample()], **LISTS)
    path = folder / "test" / "0.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as found:
        last = found.getmembers()[-1]
    for size in (last.offset_data + 512, last.offset, last.offset_data + 1, last.offset + 100):
        path.write_bytes(whole[:size])
        with pytest.raises(ExportError, match=r"test/0\.tar"):
            read_data_set(str(folder), "test")


def test_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"s{i}.{end}": x for i in range(3) for end, x in (("png", picture()), ("cls", b"1"))}
    folder = write(tmp_path / "cats", [files], **LISTS)
    for name, limit, said in (
        ("MAX_PICTURES", 2, "s2: at most 2 pictures"),
        ("MAX_BYTES", len(picture()) + 1, "s1: at most 3 pictures"),
        ("MAX_TEXTS", 1, "make 2 prompts; at most 1 are read"),
        ("MAX_LIST", 4, r"classnames\.txt: is larger than 4 bytes"),
    ):
        monkeypatch.setattr(webdataset, name, limit)
        if name == "MAX_BYTES":
            monkeypatch.setattr(webdataset, "MAX_PICTURES", 3)
        with pytest.raises(ExportError, match=said):
            read_data_set(str(folder), "test")
        monkeypatch.undo()
