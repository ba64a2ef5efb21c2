"""One variant's way: its graphs are made, written, measured, described and published."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from export import gate, repository, runners
from export.checkpoint import Checkpoint
from export.engines import build_engines
from export.errors import CrashError
from export.evaluation import EvaluationSet
from export.feeds import Feed, feed_of, image_measure, latency_of, text_measure
from export.fingerprint import fingerprint
from export.gate import Thresholds
from export.measurement import Evaluation, evaluate
from export.pbtxt import Runtime, Serving
from export.progress import Progress
from export.quantize import Method
from export.reference import Inputs, References, golden
from export.report import Latency, VariantReport
from export.search import Found, Judge, first_good, search
from export.staging import Stage
from export.tokenizer import write_tokenizer
from export.variants import Graphs, Variant, candidates, compacted, halved
from gateway.figures import Gate
from gateway.manifest import PIXELS, Manifest, Tokenizer

# Of cosine: another processor may round INT8 otherwise; a wrong model is off by far more.
GOLDEN_MARGIN = 0.01


Latencies = tuple[tuple[str, Latency], ...]  # by tower; text at the shortest length


@dataclass(frozen=True, slots=True)
class Work:
    """All that the variants of a model have in common."""

    root: Path
    checkpoint: Checkpoint
    traced: Mapping[Runtime, Graphs]  # FP32
    what: EvaluationSet
    inputs: Inputs  # the evaluation set, as the gateway prepares it
    calibrate: Inputs | None  # to take the ranges of INT8 from
    truth: References
    thresholds: Mapping[str, Thresholds]  # by precision
    method: Method
    compact: bool
    allow_failing: bool
    small_batch_items: int  # most to measure at batch 1 and 2
    serving: Serving
    progress: Progress
    evaluated: bool = False  # whether the set has more than the built-in pictures
    keep: bool = False  # whether the version that was published before stays beside the new one

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token lengths that text is measured, and unless it is packed served, at; rising."""
        return tuple(sorted({length for graphs in self.traced.values() for length in graphs.text}))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a variant.

    Attributes:
        id: The model id that it has, or would have had.
        report: None where it could not be run.
        manifest: None where it was not published.
        failures: Where it fell short, or why it could not be run.
    """

    id: str
    report: VariantReport | None
    manifest: Manifest | None
    failures: tuple[str, ...] = ()


def publish_variant(work: Work, variant: Variant, model_id: str, version: int) -> Outcome:
    """Makes and measures a variant, and publishes it if it passes, or may fail.

    Raises:
        ExportError: It cannot be made or written.
    """
    rules = work.checkpoint.preprocessing
    serving = replace(work.serving, runtime=variant.runtime)
    with repository.staging(work.root) as folder:
        stage = Stage(
            folder, model_id, version, rules.image_size, work.checkpoint.embedding_size, serving
        )
        with work.progress.stage(f"{model_id}: making and measuring it"):
            try:
                found, latency = _found(work, variant, stage)
            except CrashError as error:  # other variants may run
                return Outcome(model_id, None, None, (str(error),))
        published = not found.failures or work.allow_failing
        report = replace(_report(work, variant, stage, found, published=published), latency=latency)
        for note in report.notes:
            work.progress.notice(note)
        if not published:
            return Outcome(model_id, report, None, found.failures)
        spec = write_tokenizer(work.checkpoint.tokenizer, stage.tokenizer)
        manifest = _describe(work, variant, stage, spec, found)
        with work.progress.stage(f"publishing {model_id}, version {version}"):
            repository.publish(work.root, folder, manifest, keep=work.keep)
    return Outcome(model_id, report, manifest, found.failures)


def _found(work: Work, variant: Variant, stage: Stage) -> tuple[Found, Latencies]:
    """The graphs to publish, left in the staging folder, and how long they take."""
    limits = work.thresholds[variant.precision]
    written: Graphs | None = None
    latency: Latencies = ()

    def judge(graphs: Graphs) -> tuple[Evaluation, list[str]]:
        nonlocal written, latency
        measured, latency = _written_and_measured(work, variant, stage, graphs)
        written = graphs
        return measured, gate.failures(measured.measured, limits)

    found = _made(work, variant, limits, judge)
    if written is not found.graphs:  # what was tried after it did worse
        judge(found.graphs)
    return found, latency


def _made(work: Work, variant: Variant, limits: Thresholds, judge: Judge) -> Found:
    if variant.precision == "int8":
        return _searched(work, variant, limits, judge)
    graphs = work.traced[variant.runtime]
    if variant.precision == "fp16":
        feed = feed_of(work.inputs, work.lengths, few=True)
        graphs = halved(graphs, feed.pixels, feed.token_ids)
    if work.compact and variant.runtime == "onnxruntime":
        graphs = compacted(graphs)
    evaluation, failures = judge(graphs)
    return Found(graphs, evaluation, tuple(failures))


def _searched(work: Work, variant: Variant, limits: Thresholds, judge: Judge) -> Found:
    """INT8: candidates that pass by their cosines, then both towers by all figures."""
    if work.calibrate is None:
        raise ValueError("INT8 without calibration")
    feed: Feed = feed_of(work.calibrate, work.lengths)
    needed = limits.mean_cosine if limits.mean_cosine is not None else -1.0
    traced = work.traced[variant.runtime]
    shared = traced.text[work.lengths[-1]]
    every = [batch for batches in feed.token_ids.values() for batch in batches]
    texts = candidates(
        shared, variant.form, work.method, every,
        text_measure(work.inputs, work.truth, work.lengths),
    )  # fmt: skip
    images = candidates(
        traced.image, variant.form, work.method, feed.pixels,
        image_measure(work.inputs, work.truth),
    )  # fmt: skip
    return search(first_good(images, needed), first_good(texts, needed), traced, judge)


def _written_and_measured(
    work: Work, variant: Variant, stage: Stage, graphs: Graphs
) -> tuple[Evaluation, Latencies]:
    stage.clear()
    image, texts = stage.image(graphs.image), stage.text(graphs)
    if variant.runtime == "tensorrt":
        run_image, run_texts = build_engines(stage, image, texts, work.progress)
    else:
        if variant.precision != "fp32":
            _check_runs(stage, image, texts)
        run_image = runners.onnx_runner(image, PIXELS)
        run_texts = runners.onnx_text_runners(texts)
    evaluation = evaluate(
        run_image, run_texts, work.inputs, work.truth, work.what, work.serving.max_batch,
        work.small_batch_items,
    )  # fmt: skip
    feed, length = feed_of(work.inputs, work.lengths, few=True), min(run_texts)
    return evaluation, (
        ("image", latency_of(run_image, feed.pixels[0][:1])),
        ("text", latency_of(run_texts[length], feed.token_ids[length][0][:1])),
    )


def _check_runs(stage: Stage, image: Path, texts: Mapping[int, Path]) -> None:
    """Lets another process be the first to run the towers, at the smallest and largest batch."""
    batches = sorted({1, stage.serving.max_batch})
    size = stage.image_size
    runners.check_runs(image, [(batch, size, size, 3) for batch in batches])
    lengths: dict[int, list[int]] = {}  # that share a file, by its inode
    for length, path in texts.items():
        lengths.setdefault(path.stat().st_ino, []).append(length)
    for shared in lengths.values():
        shapes = [(batch, length) for batch in batches for length in shared]
        runners.check_runs(texts[shared[0]], shapes)


def _describe(
    work: Work, variant: Variant, stage: Stage, spec: Tokenizer, found: Found
) -> Manifest:
    checkpoint = work.checkpoint
    rules, measured = checkpoint.preprocessing, found.evaluation.measured
    lowest = min(measured.image.min_cosine, measured.text.min_cosine)
    figures = {
        **asdict(measured),
        "thresholds": asdict(work.thresholds[variant.precision]),
        "failures": found.failures,
    }
    made = "; ".join(f"{tower}: {recipe}" for tower, recipe in sorted(found.graphs.recipe.items()))
    return Manifest(
        id=stage.model_id,
        version=stage.version,
        fingerprint=fingerprint(
            checkpoint.model, rules, spec, " ".join(filter(None, (variant.precision, made)))
        ),
        open_clip_name=checkpoint.name,
        pretrained=checkpoint.pretrained,
        precision=variant.precision,
        runtime=variant.runtime,
        recipe=found.graphs.recipe,
        embedding_size=checkpoint.embedding_size,
        logit_scale=checkpoint.logit_scale,
        logit_bias=checkpoint.logit_bias,
        preprocessing=rules,
        tokenizer=spec,
        triton=stage.triton_models(found.graphs),
        golden=golden(
            checkpoint, spec, stage.folder, work.lengths[0], max(0.1, lowest - GOLDEN_MARGIN)
        ),
        gate=Gate.model_validate(figures),
        files=stage.hashes(),
        created=int(time.time()),
    )


def _report(
    work: Work, variant: Variant, stage: Stage, found: Found, *, published: bool
) -> VariantReport:
    recipe = "; ".join(f"{tower}: {made}" for tower, made in found.graphs.recipe.items())
    evaluation, limits = found.evaluation, work.thresholds[variant.precision]
    note = gate.unjudged(stage.model_id, evaluation.measured, limits, evaluated=work.evaluated)
    return VariantReport(
        stage.model_id, variant.precision, variant.runtime, stage.size(), evaluation.measured,
        evaluation.image_cosines, evaluation.text_cosines, limits, found.failures, published,
        recipe, notes=(note,) if note else (),
    )  # fmt: skip
