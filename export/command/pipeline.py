"""Runs the stages of an export: load, trace, then convert, measure and publish each variant."""

import re
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from export.errors import ExportError, GraphError
from export.gate import calibration, evaluation
from export.gate.evaluation import EvaluationSet
from export.gate.reference import References, prepare, references
from export.gate.thresholds import DEFAULT_THRESHOLDS
from export.precision import bf16
from export.precision.variants import Graphs, Runtime
from export.publish import repository
from export.publish.job import DRAWN, ExportJob, Options
from export.publish.progress import Progress
from export.publish.variant_publisher import Outcome, publish_variant
from export.publish.writer import locked
from export.source import encoders, packed, tracing
from export.source.checkpoint import Checkpoint, load_checkpoint
from export.source.custom import load_custom
from export.source.tokenizer import check_tokenizer, write_tokenizer
from export.source.tracing import TextGraphs
from export.storage.webdataset import is_webdataset, read_data_set
from export.tensorrt import gpus, plan
from gateway.models import manifest as contract
from gateway.models.gate import Thresholds

DEFAULT_LENGTHS = (16, 24, 32)  # tokens; the full context is always served as well
SATURATES = (
    "NVIDIA's own ONNX Runtime backend computes INT8 less accurately on x86 processors without "
    "VNNI, since no key of it prevents saturation; `python -m server` prevents it"
)


def default_id(name: str, pretrained: str | None) -> str:
    """`<name>` or `<name>.<tag>`, with dashes for characters that a model id cannot have."""
    if pretrained is not None and pretrained != name:
        stem = re.sub(r"\.(safetensors|bin|pth?|npz|npy)$", "", Path(pretrained).name)
        name = f"{name}.{stem}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:128] or "model"


def export_model(options: Options, progress: Progress) -> list[Outcome]:
    """Export one model in every given variant, and publish those that pass.

    Raises:
        ExportError: A stage failed; variants published before it stay published.
    """
    _check(options)
    dataset = evaluation_set(options)
    samples = calibration_set(options)
    with progress.stage(f"loading {options.model}"):
        checkpoint = load(options)
    for notice in checkpoint.notices:
        progress.notice(notice)
    quantized = [variant for variant in options.variants if variant.quantized]
    if samples and quantized and (few := calibration.warning(samples)):
        progress.notice(few)
    if options.serving.device != "gpu" and any(variant.on_cpu for variant in quantized):
        progress.notice(SATURATES)
    base = options.model_id or default_id(checkpoint.name, checkpoint.pretrained)
    ids = {variant: variant.model_id(base) for variant in options.variants}
    for model_id in ids.values():
        if not re.match(contract.MODEL_ID_PATTERN, model_id):
            raise ExportError(f"--id {model_id}: an id matches {contract.MODEL_ID_PATTERN}")
    rules = checkpoint.preprocessing
    dataset = evaluation.built_in(rules.image_size, options.samples).joined(dataset)
    with locked(options.repository):
        for model_id in ids.values() if options.version is not None else ():
            repository.check_batch(options.repository, model_id, options.serving.max_batch)
        versions = {
            variant: repository.next_version(
                options.repository,
                model_id,
                rules.image_size,
                checkpoint.embedding_size,
                options.version,
            )
            for variant, model_id in ids.items()
        }
        job = _prepare(options, checkpoint, dataset, samples, progress)
        return [
            publish_variant(job, variant, ids[variant], versions[variant])
            for variant in options.variants
        ]


def _check(options: Options) -> None:
    """Refuse impossible options before anything is loaded."""
    quantized = [each.precision.upper() for each in options.variants if each.quantized]
    if quantized and options.calibrate is None:
        raise ExportError(
            f"{quantized[0]} needs pictures and captions like those that it will serve, to "
            "calibrate its ranges: give --calibrate-images DIR and --calibrate-texts FILE"
        )
    if any(v.precision == "bf16" for v in options.variants):
        bf16.check_processor()
    if any(v.runtime == "tensorrt" for v in options.variants):
        plan.import_tensorrt()
        gpu = gpus.find_gpus()[0]
        fp8 = any(v.precision == "fp8" for v in options.variants)
        if fp8 and (why := gpus.why_not_fp8(gpu)):
            raise ExportError(why)


def load(options: Options) -> Checkpoint:
    """Load the model.

    Raises:
        ExportError: It cannot be loaded.
    """
    if options.custom:
        return load_custom(options.model)
    return load_checkpoint(
        options.model, options.pretrained, options.tokenizer, options.text_config
    )


def evaluation_set(options: Options) -> EvaluationSet:
    """Read the evaluation sets that `--evaluate` names.

    Raises:
        ExportError: One of them cannot be read.
    """
    found = EvaluationSet((), ())
    for address in options.evaluate:
        if address == DRAWN:
            found = found.joined(evaluation.drawn())
        elif is_webdataset(address, options.evaluate_split):
            data_set = read_data_set(address, options.evaluate_split)
            found = found.joined(EvaluationSet((), (), data_sets=(data_set,)))
        else:
            found = found.joined(evaluation.from_files(Path(address), options.evaluate_texts))
    return found


def calibration_set(options: Options) -> EvaluationSet | None:
    """Read the pictures and captions that `--calibrate-images` names, if any.

    Raises:
        ExportError: They cannot be read, or there are no captions.
    """
    if options.calibrate is None:
        return None
    if options.calibrate == DRAWN:
        return calibration.drawn()
    if options.calibrate_texts is None:
        raise ExportError("--calibrate-images needs --calibrate-texts FILE as well")
    return calibration.from_files(Path(options.calibrate), options.calibrate_texts)


def _prepare(
    options: Options,
    checkpoint: Checkpoint,
    dataset: EvaluationSet,
    samples: EvaluationSet | None,
    progress: Progress,
) -> ExportJob:
    """Prepare the inputs that all variants share."""
    with (
        progress.stage("writing the tokenizer"),
        tempfile.TemporaryDirectory() as scratch,
    ):
        folder = Path(scratch)
        spec = write_tokenizer(checkpoint.tokenizer, folder / "tokenizer.json")
        _check_lengths(options, spec.context_length)
        check_tokenizer(checkpoint.tokenizer, spec, folder, list(dataset.all_texts))
        rules = checkpoint.preprocessing
        inputs = prepare(dataset, rules, spec, folder)
        calibrate = prepare(samples, rules, spec, folder) if samples else None
    with progress.stage("tracing the image encoder"):
        image = tracing.image_graph(checkpoint)
    if image.notice:
        progress.notice(image.notice)
    traced: dict[Runtime, Graphs] = {}
    for runtime in dict.fromkeys(variant.traced_for for variant in options.variants):
        with progress.stage("tracing the text encoder"):
            text = text_graphs(options, checkpoint, spec, runtime, progress)
        by_length = {length: made.proto for length, made in text.by_length.items()}
        traced[runtime] = Graphs(image.proto, by_length, packed=text.packed)
    with progress.stage(f"encoding {_size(dataset)} in PyTorch"):
        truth: References = references(checkpoint, dataset)
    limits = {name: _merged(each, options.thresholds) for name, each in DEFAULT_THRESHOLDS.items()}
    return ExportJob(
        options, checkpoint, traced, dataset, inputs, calibrate, truth, limits, progress
    )


def _check_lengths(options: Options, context_length: int) -> None:
    over = [length for length in options.token_lengths or () if length > context_length]
    if over:
        raise ExportError(
            f"--token-lengths {over[0]}: {options.model} takes texts of at most {context_length} "
            "tokens"
        )


def text_graphs(
    options: Options,
    checkpoint: Checkpoint,
    spec: contract.Tokenizer,
    runtime: Runtime,
    progress: Progress,
) -> TextGraphs:
    """Trace the text encoder for a runtime; a notice says why it differs from the request.

    Raises:
        GraphError: It cannot be exported.
    """
    wanted = DEFAULT_LENGTHS if options.token_lengths is None else options.token_lengths
    reason = encoders.why_full_length_only(checkpoint.model, spec.pad_id)
    if reason and wanted:
        progress.notice(f"text is served at the full {spec.context_length} tokens only: {reason}")
    elif options.token_lengths is None and runtime == "onnxruntime":
        reason = packed.why_not_packed(checkpoint.model, spec.pad_id)
        try:
            if reason is None:
                return tracing.packed_text(checkpoint, wanted)
        except GraphError as error:
            reason = str(error)
        progress.notice(f"text is padded to fixed lengths: {reason}")
    elif options.token_lengths is None:
        progress.notice("text is padded to fixed lengths: a TensorRT plan takes only one length")
    text = tracing.text_graphs(checkpoint, spec.pad_id, wanted)
    for notice in filter(None, (each.notice for each in text.by_length.values())):
        progress.notice(notice)
    return text


def _size(dataset: EvaluationSet) -> str:
    return f"{len(dataset.all_pictures)} pictures and {len(dataset.all_texts)} texts"


def _merged(defaults: Thresholds, given: Thresholds) -> Thresholds:
    return replace(defaults, **{k: v for k, v in asdict(given).items() if v is not None})
