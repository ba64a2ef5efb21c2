"""One variant's way: its graphs are made, written, measured, described and published."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from export import gate, repository
from export.checkpoint import Checkpoint
from export.engines import build_engines
from export.evaluation import EvaluationSet
from export.feeds import Feed, feed_of, image_measure, latency_of, text_measure
from export.fingerprint import fingerprint
from export.gate import Evaluation, Thresholds
from export.pbtxt import Serving
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
    traced: Graphs  # FP32
    what: EvaluationSet
    inputs: Inputs  # the evaluation set, as the gateway prepares it
    calibrate: Inputs | None  # to take the ranges of INT8 from
    truth: References
    thresholds: Mapping[str, Thresholds]  # by precision
    method: Method
    compact: bool
    allow_failing: bool
    serving: Serving
    progress: Progress

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token lengths that text is served at, rising."""
        return tuple(sorted(self.traced.text))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a variant: its manifest is None where it was refused."""

    report: VariantReport
    manifest: Manifest | None


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
            found, latency = _found(work, variant, stage)
        published = not found.failures or work.allow_failing
        report = replace(_report(work, variant, stage, found, published=published), latency=latency)
        if not published:
            return Outcome(report, None)
        spec = write_tokenizer(work.checkpoint.tokenizer, stage.tokenizer)
        manifest = _describe(work, variant, stage, spec, found)
        with work.progress.stage(f"publishing {model_id}, version {version}"):
            repository.publish(work.root, folder, manifest)
    return Outcome(report, manifest)


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
    graphs = work.traced
    if variant.precision == "fp16":
        feed = feed_of(work.inputs, work.lengths, few=True)
        graphs = halved(graphs, feed.pixels, feed.token_ids)
    if work.compact and variant.runtime == "onnxruntime":
        graphs = compacted(graphs)
    evaluation, failures = judge(graphs)
    return Found(graphs, evaluation, tuple(failures))


def _searched(work: Work, variant: Variant, limits: Thresholds, judge: Judge) -> Found:
    """INT8: the text tower by its cosines alone, then the image tower by all figures."""
    if work.calibrate is None:
        raise ValueError("INT8 without calibration")
    feed: Feed = feed_of(work.calibrate, work.lengths)
    needed = limits.mean_cosine if limits.mean_cosine is not None else -1.0
    shared = work.traced.text[work.lengths[-1]]
    every = [batch for batches in feed.token_ids.values() for batch in batches]
    texts = candidates(
        shared, variant.form, work.method, every,
        text_measure(work.inputs, work.truth, work.lengths),
    )  # fmt: skip
    images = candidates(
        work.traced.image, variant.form, work.method, feed.pixels,
        image_measure(work.inputs, work.truth),
    )  # fmt: skip
    return search(first_good(images, needed), next(first_good(texts, needed)), work.lengths, judge)


def _written_and_measured(
    work: Work, variant: Variant, stage: Stage, graphs: Graphs
) -> tuple[Evaluation, Latencies]:
    stage.clear()
    image, texts = stage.image(graphs.image), stage.text(graphs.text)
    if variant.runtime == "tensorrt":
        run_image, run_texts = build_engines(stage, image, texts, work.progress)
    else:
        run_image = gate.onnx_runner(image, PIXELS)
        run_texts = gate.onnx_text_runners(texts)
    evaluation = gate.evaluate(
        run_image, run_texts, work.inputs, work.truth, work.what, work.serving.max_batch
    )
    feed, length = feed_of(work.inputs, work.lengths, few=True), min(run_texts)
    return evaluation, (
        ("image", latency_of(run_image, feed.pixels[0][:1])),
        ("text", latency_of(run_texts[length], feed.token_ids[length][0][:1])),
    )


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
        triton=stage.triton_models(work.lengths),
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
    return VariantReport(
        stage.model_id,
        variant.precision,
        variant.runtime,
        stage.size(),
        found.evaluation.measured,
        found.evaluation.image_cosines,
        found.evaluation.text_cosines,
        work.thresholds[variant.precision],
        found.failures,
        published,
        recipe,
    )
