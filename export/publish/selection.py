"""Selects the graphs of a variant: makes, writes and measures candidates until one passes."""

from collections.abc import Mapping
from pathlib import Path

from export.gate import runners, thresholds
from export.gate.feeds import Feed, feed_of, image_measure, latency_of, text_measure
from export.gate.measurement import Evaluation, evaluate
from export.gate.search import Found, Judge, first_good, search
from export.gate.variant_report import Latency
from export.precision.variants import Graphs, Variant, candidates, compacted, halved
from export.publish.job import ExportJob
from export.publish.staged_plans import build_plans
from export.publish.staging import Stage
from gateway.models.gate import Thresholds
from gateway.models.manifest import PIXELS

Latencies = tuple[tuple[str, Latency], ...]  # by tower; text at the shortest length


def select_graphs(job: ExportJob, variant: Variant, stage: Stage) -> tuple[Found, Latencies]:
    """Select the graphs to publish, write them to the staging folder, and time them.

    Raises:
        CrashError: ONNX Runtime crashes on all of them.
        ExportError: They cannot be made or written.
    """
    limits = job.thresholds[variant.precision]
    written: Graphs | None = None
    latency: Latencies = ()

    def judge(graphs: Graphs) -> tuple[Evaluation, list[str]]:
        nonlocal written, latency
        measured, latency = _written_and_measured(job, variant, stage, graphs)
        written = graphs
        return measured, thresholds.failures(measured.measured, limits)

    found = _made(job, variant, limits, judge)
    if written is not found.graphs:  # a later candidate was worse
        judge(found.graphs)
    return found, latency


def _made(job: ExportJob, variant: Variant, limits: Thresholds, judge: Judge) -> Found:
    if variant.precision == "int8":
        return _searched(job, variant, limits, judge)
    graphs = job.traced[variant.traced_for]
    if variant.precision == "fp16":
        feed = feed_of(job.inputs, job.lengths, few=True)
        graphs = halved(graphs, feed.pixels, feed.token_ids)
    if job.compact and variant.runtime == "onnxruntime":
        graphs = compacted(graphs)
    evaluation, failures = judge(graphs)
    return Found(graphs, evaluation, tuple(failures))


def _searched(job: ExportJob, variant: Variant, limits: Thresholds, judge: Judge) -> Found:
    """Search INT8 graphs: first by the cosines of each tower, then by all figures of both."""
    if job.calibrate is None:
        raise ValueError("INT8 without calibration")
    feed: Feed = feed_of(job.calibrate, job.lengths)
    needed = limits.mean_cosine if limits.mean_cosine is not None else -1.0
    traced = job.traced[variant.traced_for]
    shared = traced.text[job.lengths[-1]]
    every = [batch for batches in feed.token_ids.values() for batch in batches]
    texts = candidates(
        shared, variant.form, job.method, every,
        text_measure(job.inputs, job.truth, job.lengths),
    )  # fmt: skip
    images = candidates(
        traced.image, variant.form, job.method, feed.pixels,
        image_measure(job.inputs, job.truth),
    )  # fmt: skip
    return search(first_good(images, needed), first_good(texts, needed), traced, judge)


def _written_and_measured(
    job: ExportJob, variant: Variant, stage: Stage, graphs: Graphs
) -> tuple[Evaluation, Latencies]:
    stage.clear()
    image, texts = stage.image(graphs.image), stage.text(graphs)
    if variant.runtime == "tensorrt":
        run_image, run_texts = build_plans(stage, image, texts, job.progress)
    elif variant.runtime == "openvino":
        run_image = runners.openvino_runner(image, PIXELS)
        run_texts = runners.text_runners(texts, runners.openvino_runner)
    else:
        if variant.precision != "fp32":
            _check_runs(stage, image, texts)
        run_image = runners.onnx_runner(image, PIXELS)
        run_texts = runners.text_runners(texts)
    evaluation = evaluate(
        run_image, run_texts, job.inputs, job.truth, job.dataset, job.serving.max_batch,
        job.small_batch_items,
    )  # fmt: skip
    feed, length = feed_of(job.inputs, job.lengths, few=True), min(run_texts)
    return evaluation, (
        ("image", latency_of(run_image, feed.pixels[0][:1])),
        ("text", latency_of(run_texts[length], feed.token_ids[length][0][:1])),
    )


def _check_runs(stage: Stage, image: Path, texts: Mapping[int, Path]) -> None:
    """Run the towers in another process first, at the smallest and largest batch."""
    batches = sorted({1, stage.serving.max_batch})
    size = stage.image_size
    runners.check_runs(image, [(batch, size, size, 3) for batch in batches])
    lengths: dict[int, list[int]] = {}  # lengths that share a file, by its inode
    for length, path in texts.items():
        lengths.setdefault(path.stat().st_ino, []).append(length)
    for shared in lengths.values():
        shapes = [(batch, length) for batch in batches for length in shared]
        runners.check_runs(texts[shared[0]], shapes)
