"""Publishes one variant: selects its graphs, describes them in a manifest, and publishes both."""

import time
from dataclasses import dataclass, replace

from export.errors import CrashError
from export.gate import thresholds
from export.gate.reference import golden
from export.gate.variant_report import VariantReport
from export.precision.variants import Variant
from export.publish import repository
from export.publish.job import ExportJob
from export.publish.selection import Selected, select_graphs
from export.publish.staging import Stage
from export.publish.writer import staging
from export.report.card import about, card
from export.source.fingerprint import fingerprint
from export.source.tokenizer import write_tokenizer
from gateway.models.gate import Gate
from gateway.models.manifest import Manifest, Tokenizer
from gateway.models.variants import processor

# Cosine: INT8 may round differently on other processors; a wrong model differs by far more.
GOLDEN_MARGIN = 0.01


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a variant.

    Attributes:
        id: Its model id, published or not.
        report: None if it could not run.
        manifest: None if it was not published.
        failures: Missed thresholds, or the reason why it could not run.
    """

    id: str
    report: VariantReport | None
    manifest: Manifest | None
    failures: tuple[str, ...] = ()


def publish_variant(job: ExportJob, variant: Variant, model_id: str, version: int) -> Outcome:
    """Convert and measure a variant, and publish it if it passes or failing is allowed.

    Raises:
        ExportError: It cannot be made or written.
    """
    rules = job.checkpoint.preprocessing
    # INT8 operators are short: threads that share them often wait for each other. Texts would gain
    # as much, but need memory for a second embedding table.
    split_images = variant.precision == "int8"
    serving = replace(job.options.serving, runtime=variant.runtime, split_images=split_images)
    with staging(job.options.repository) as folder:
        stage = Stage(
            folder, model_id, version, rules.image_size, job.checkpoint.embedding_size, serving
        )
        with job.progress.stage(f"{model_id}: converting and measuring"):
            try:
                selected = select_graphs(job, variant, stage)
            except CrashError as error:  # other variants may run
                return Outcome(model_id, None, None, (str(error),))
        found = selected.found
        published = not found.failures or job.options.allow_failing
        report = _report(job, variant, stage, selected, published=published)
        for note in report.notes:
            job.progress.notice(note)
        if not published:
            return Outcome(model_id, report, None, found.failures)
        spec = write_tokenizer(job.checkpoint.tokenizer, stage.tokenizer)
        manifest = _describe(job, variant, stage, spec, selected)
        origin = job.checkpoint.origin
        licence = job.options.licence or origin.licence
        stage.card.write_text(card(manifest, origin.repository, licence, report.latency), "utf-8")
        manifest = manifest.model_copy(update={"files": stage.hashes()})
        report = replace(report, about=about(manifest, origin.repository, licence))
        with job.progress.stage(f"publishing {model_id}, version {version}"):
            repository.publish(
                job.options.repository, folder, manifest, keep=job.options.version is not None
            )
    return Outcome(model_id, report, manifest, found.failures)


def _describe(
    job: ExportJob, variant: Variant, stage: Stage, spec: Tokenizer, selected: Selected
) -> Manifest:
    checkpoint, found = job.checkpoint, selected.found
    rules, measured = checkpoint.preprocessing, found.evaluation.measured
    lowest = min(measured.image.min_cosine, measured.text.min_cosine)
    made = "; ".join(
        f"{encoder}: {recipe}" for encoder, recipe in sorted(found.graphs.recipe.items())
    )
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
            checkpoint, spec, stage.folder, job.lengths[0], max(0.1, lowest - GOLDEN_MARGIN)
        ),
        gate=replace(
            Gate.of_measured(measured, job.thresholds[variant.precision]),
            failures=found.failures,
            speeds=selected.speeds,
            processor=processor(),
        ),
        card=stage.card.name,
        files={},  # when all are written
        created=int(time.time()),
    )


def _report(
    job: ExportJob, variant: Variant, stage: Stage, selected: Selected, *, published: bool
) -> VariantReport:
    found = selected.found
    recipe = "; ".join(f"{encoder}: {made}" for encoder, made in found.graphs.recipe.items())
    evaluation, limits = found.evaluation, job.thresholds[variant.precision]
    notes = thresholds.unjudged(
        stage.model_id, evaluation.measured, limits, evaluated=bool(job.options.evaluate)
    )
    return VariantReport(
        stage.model_id, variant.precision, variant.runtime, stage.size(), evaluation.measured,
        evaluation.image_cosines, evaluation.text_cosines, limits, found.failures, published,
        recipe, selected.latency, selected.speeds, tuple(notes),
    )  # fmt: skip
