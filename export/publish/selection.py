"""Selects the graphs of a variant: makes, writes and measures candidates until one passes."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from export.gate import runners, speed, thresholds
from export.gate.feeds import Feed, feed_of, image_measure, latency_of, text_measure
from export.gate.measurement import Evaluation, evaluate
from export.gate.runners import RunEncoder
from export.gate.search import Found, Judge, first_good, search
from export.gate.speed import Pair
from export.gate.variant_report import Latency
from export.precision.variants import Graphs, Variant, candidates, compacted, halved
from export.publish.job import ExportJob
from export.publish.staged_plans import build_plans
from export.publish.staging import Stage
from export.source import graph
from gateway.models.gate import Speed, Thresholds
from gateway.models.manifest import PIXELS, TOKEN_IDS


@dataclass(frozen=True, slots=True)
class Selected:
    """The graphs to publish, in the staging folder.

    Attributes:
        found: Graphs, figures and missed thresholds.
        latency: By encoder; of text at the shortest length. Empty if no plan was built.
        speeds: Relative to FP32 on this machine; empty for FP32 itself and on a GPU.
    """

    found: Found
    latency: tuple[tuple[str, Latency], ...]
    speeds: tuple[Speed, ...]


@dataclass(frozen=True, slots=True)
class _Staged:
    """Graphs in the staging folder, and functions that run them."""

    graphs: Graphs
    run_image: RunEncoder
    run_texts: Mapping[int, RunEncoder]


def select_graphs(job: ExportJob, variant: Variant, stage: Stage) -> Selected:
    """Select the graphs to publish, write them to the staging folder, and time them.

    Raises:
        CrashError: ONNX Runtime crashes on all of them.
        ExportError: They cannot be made or written.
    """
    limits = job.thresholds[variant.precision]
    staged: _Staged | None = None

    def measured(ran: _Staged) -> tuple[Evaluation, list[str]]:
        found = evaluate(
            ran.run_image, ran.run_texts, job.inputs, job.truth, job.dataset,
            job.options.serving.max_batch, job.options.small_batch_items,
        )  # fmt: skip
        return found, thresholds.failures(found.measured, limits)

    def judge(graphs: Graphs) -> tuple[Evaluation, list[str]]:
        nonlocal staged
        staged = None
        if variant.precision == "fp8":
            on_cpu = measured(_as_onnx(stage, graphs, fp8=True))
            if on_cpu[1]:  # plans take minutes to build
                return on_cpu
        staged = _staged(job, variant, stage, graphs)
        return measured(staged)

    found = _made(job, variant, limits, judge)
    if staged is None and found.failures and not job.options.allow_failing:
        return Selected(found, (), ())  # refused on the CPU, so no plan was built
    if staged is None or staged.graphs is not found.graphs:  # a later candidate was worse
        staged = _staged(job, variant, stage, found.graphs)
    feed, length = feed_of(job.inputs, job.lengths, few=True), min(staged.run_texts)
    pixels, ids = feed.pixels[0], feed.token_ids[length][0]
    ours = Pair(staged.run_image, staged.run_texts[length])
    latency = (
        ("image", latency_of(ours.image, pixels[:1])),
        ("text", latency_of(ours.text, ids[:1])),
    )
    if variant.precision == "fp32" or not variant.on_cpu or job.options.serving.device == "gpu":
        return Selected(found, latency, ())
    with _fp32(job, length) as fp32:
        speeds = speed.compare(fp32, ours, pixels, ids, job.options.serving.max_batch)
    slow = () if job.options.allow_slow else speed.failures(speeds)
    return Selected(replace(found, failures=(*found.failures, *slow)), latency, speeds)


@contextmanager
def _fp32(job: ExportJob, length: int) -> Iterator[Pair]:
    """Open the FP32 graphs in ONNX Runtime."""
    graphs = job.traced["onnxruntime"]
    with tempfile.TemporaryDirectory() as folder:
        image, text = Path(folder) / "image.onnx", Path(folder) / "text.onnx"
        graph.save(graphs.image, image, "fp32")
        graph.save(graphs.text[length], text, "fp32")
        yield Pair(runners.onnx_runner(image, PIXELS), runners.onnx_runner(text, TOKEN_IDS))


def _made(job: ExportJob, variant: Variant, limits: Thresholds, judge: Judge) -> Found:
    if variant.quantized:
        return _searched(job, variant, limits, judge)
    graphs = job.traced[variant.traced_for]
    if variant.precision == "fp16":
        feed = feed_of(job.inputs, job.lengths, few=True)
        graphs = halved(graphs, feed.pixels, feed.token_ids)
    if job.options.compact and variant.runtime == "onnxruntime":
        graphs = compacted(graphs)
    evaluation, failures = judge(graphs)
    return Found(graphs, evaluation, tuple(failures))


def _searched(job: ExportJob, variant: Variant, limits: Thresholds, judge: Judge) -> Found:
    """Search quantized graphs: by the cosines of each encoder, then by all figures of both."""
    if job.calibrate is None:
        raise ValueError(f"{variant.precision} without calibration")
    feed: Feed = feed_of(job.calibrate, job.lengths)
    needed = limits.mean_cosine if limits.mean_cosine is not None else -1.0
    traced = job.traced[variant.traced_for]
    shared = traced.text[job.lengths[-1]]
    every = [batch for batches in feed.token_ids.values() for batch in batches]
    fp8 = variant.precision == "fp8"
    texts = candidates(
        shared, variant.form, job.options.method, every,
        text_measure(job.inputs, job.truth, job.lengths, fp8=fp8),
    )  # fmt: skip
    images = candidates(
        traced.image, variant.form, job.options.method, feed.pixels,
        image_measure(job.inputs, job.truth, fp8=fp8),
    )  # fmt: skip
    return search(first_good(images, needed), first_good(texts, needed), traced, judge)


def _staged(job: ExportJob, variant: Variant, stage: Stage, graphs: Graphs) -> _Staged:
    if variant.runtime == "onnxruntime":
        return _as_onnx(stage, graphs, checked=variant.precision != "fp32")
    stage.clear()
    image, texts = stage.image(graphs.image), stage.text(graphs)
    if variant.runtime == "tensorrt":
        return _Staged(graphs, *build_plans(stage, image, texts))
    run_image = runners.openvino_runner(image, PIXELS)
    run_texts = runners.text_runners(texts, runners.openvino_runner)
    return _Staged(graphs, run_image, run_texts)


def _as_onnx(stage: Stage, graphs: Graphs, *, checked: bool = True, fp8: bool = False) -> _Staged:
    """Write the graphs for ONNX Runtime on a CPU; `checked` runs them in another process first."""
    stage.clear()
    image, texts = stage.image(graphs.image), stage.text(graphs)
    if checked:
        _check_runs(stage, image, texts, fp8=fp8)
    make = partial(runners.onnx_runner, fp8=fp8)
    return _Staged(graphs, make(image, PIXELS), runners.text_runners(texts, make))


def _check_runs(stage: Stage, image: Path, texts: Mapping[int, Path], *, fp8: bool) -> None:
    """Run the encoders in another process first, at the smallest and largest batch."""
    batches = sorted({1, stage.serving.max_batch})
    size = stage.image_size
    runners.check_runs(image, [(batch, size, size, 3) for batch in batches], fp8=fp8)
    lengths: dict[int, list[int]] = {}  # lengths that share a file, by its inode
    for length, path in texts.items():
        lengths.setdefault(path.stat().st_ino, []).append(length)
    for shared in lengths.values():
        shapes = [(batch, length) for batch in batches for length in shared]
        runners.check_runs(texts[shared[0]], shapes, fp8=fp8)
