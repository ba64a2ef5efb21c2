"""Orders the stages of an export: load, trace, save, measure, publish."""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from export import gate, graph, precision, repository, towers
from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import ExportError
from export.fingerprint import fingerprint
from export.leftovers import CONFIG
from export.pbtxt import Serving, image_config, text_config
from export.progress import Progress
from export.samples import Samples, make_samples
from export.tokenizer import check_tokenizer, write_tokenizer
from gateway import manifest as contract
from gateway.manifest import Manifest, Tokenizer, file_sha256

DEFAULT_LENGTHS = (16, 24, 32)  # tokens; the full context is always served as well
PRECISION: Literal["fp32"] = "fp32"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; `python -m export --help` explains each."""

    model: str
    repository: Path
    pretrained: str | None = None
    model_id: str | None = None
    tokenizer: Path | None = None
    token_lengths: tuple[int, ...] = DEFAULT_LENGTHS
    compact: bool = False
    samples: tuple[Path, ...] = ()
    min_cosine: float = gate.MIN_COSINE
    serving: Serving = field(default_factory=Serving)


@dataclass(frozen=True, slots=True)
class _Export:
    """What the stages after loading share."""

    options: Options
    checkpoint: Checkpoint
    model_id: str
    version: int
    staged: Path
    progress: Progress

    def tower(self, suffix: str) -> tuple[str, Path]:
        """A Triton model's name, and its version folder in the staging folder."""
        name = f"{self.model_id}.{suffix}"
        return name, self.staged / name / str(self.version)


def default_id(name: str, pretrained: str | None) -> str:
    """`<name>` or `<name>.<tag>`, with what a model id cannot hold made into dashes."""
    if pretrained is not None and pretrained != name:
        stem = re.sub(r"\.(safetensors|bin|pth?|npz|npy)$", "", Path(pretrained).name)
        name = f"{name}.{stem}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:128] or "model"


def export_model(options: Options, progress: Progress) -> Manifest:
    """Exports one model and publishes it.

    Raises:
        ExportError: One of its kinds; nothing was published, and what was still is.
    """
    with progress.stage(f"loading {options.model}"):
        checkpoint = load_checkpoint(options.model, options.pretrained, options.tokenizer)
    for notice in checkpoint.notices:
        progress.notice(notice)
    model_id = options.model_id or default_id(checkpoint.name, checkpoint.pretrained)
    if not re.match(contract.MODEL_ID_PATTERN, model_id):
        raise ExportError(f"--id {model_id}: an id matches {contract.MODEL_ID_PATTERN}")
    samples = make_samples(checkpoint.preprocessing.image_size, options.samples)
    root = options.repository
    with repository.locked(root):
        previous = repository.check_replaceable(
            root, model_id, checkpoint.preprocessing.image_size, checkpoint.embedding_size
        )
        version = previous.version + 1 if previous else 1
        with repository.staging(root) as staged:
            job = _Export(options, checkpoint, model_id, version, staged, progress)
            manifest = _prepare(job, samples)
            with progress.stage(f"publishing {model_id}, version {version}"):
                repository.publish(root, staged, manifest)
    return manifest


def _prepare(job: _Export, samples: Samples) -> Manifest:
    """Fills the staging folder, measures it and describes it."""
    checkpoint, progress, serving = job.checkpoint, job.progress, job.options.serving
    with progress.stage("writing the tokenizer"):
        path = job.staged / f"{job.model_id}.{job.version}.tokenizer.json"
        tokenizer = write_tokenizer(checkpoint.tokenizer, path)
        check_tokenizer(checkpoint.tokenizer, tokenizer, job.staged, list(samples.texts))
    with progress.stage("tracing the image tower"):
        image = _image(job)
    with progress.stage("tracing the text tower"):
        text = _text(job, tokenizer)
    with progress.stage("encoding samples with OpenCLIP in PyTorch"):
        truth = gate.reference(checkpoint, samples)
        threshold = job.options.min_cosine
        golden = gate.golden(checkpoint, tokenizer, job.staged, min(text), threshold)
    with progress.stage("measuring the ONNX towers against it"):
        measured = gate.measure(
            gate.Staged(image, text), truth, samples, checkpoint, tokenizer, serving.max_batch,
            threshold,
        )  # fmt: skip
    with progress.stage("taking fingerprints"):
        return _describe(job, tokenizer, tuple(text), golden, measured)


def _describe(
    job: _Export,
    tokenizer: Tokenizer,
    lengths: tuple[int, ...],
    golden: contract.Golden,
    measured: contract.Gate,
) -> Manifest:
    checkpoint = job.checkpoint
    rules = checkpoint.preprocessing
    return Manifest(
        id=job.model_id,
        version=job.version,
        fingerprint=fingerprint(checkpoint.model, rules, tokenizer, PRECISION),
        open_clip_name=checkpoint.name,
        pretrained=checkpoint.pretrained,
        precision=PRECISION,
        embedding_size=checkpoint.embedding_size,
        logit_scale=checkpoint.logit_scale,
        logit_bias=checkpoint.logit_bias,
        preprocessing=rules,
        tokenizer=tokenizer,
        triton=_triton_models(job, lengths),
        golden=golden,
        gate=measured,
        files=_hashes(job.staged),
        created=int(time.time()),
    )


def _image(job: _Export) -> Path:
    """Traces and saves the image tower; returns its file."""
    rules, serving = job.checkpoint.preprocessing, job.options.serving
    size = rules.image_size
    tower = towers.ImageTower(job.checkpoint.model, rules).eval()
    pixels = torch.from_numpy(contract.golden_pixels(size)).expand(2, -1, -1, -1).contiguous()
    traced = graph.trace(tower, pixels, contract.IMAGE_FEATURES)
    name, folder = job.tower("image")
    return _save(
        job, traced, folder, image_config(name, size, job.checkpoint.embedding_size, serving)
    )


def _text(job: _Export, tokenizer: Tokenizer) -> dict[int, Path]:
    """Traces the text tower and saves it for each token length; returns the files."""
    model, context = job.checkpoint.model, tokenizer.context_length
    reason = towers.why_full_length_only(model, tokenizer.pad_id)
    if reason and job.options.token_lengths:
        job.progress.notice(f"text is served at the full {context} tokens only: {reason}")
    lengths = towers.token_lengths(job.options.token_lengths, context, any_length=not reason)
    ids = job.checkpoint.tokenizer(["a cat", "a photo of two dogs"]).to(torch.int32)
    tower = towers.text_tower(model, tokenizer.pad_id).eval()
    graphs = graph.trace_text(tower, ids, lengths, contract.TEXT_FEATURES)
    files: dict[int, Path] = {}
    for length in reversed(lengths):
        name, folder = job.tower(f"text-{length}")
        content = text_config(name, length, job.checkpoint.embedding_size, job.options.serving)
        shared = next((at for at, path in files.items() if graphs[at] is graphs[length]), None)
        if shared is None:
            files[length] = _save(job, graphs[length], folder, content)
        else:
            files[length] = repository.link_tower(files[shared], folder, content)
    return dict(sorted(files.items()))


def _save(job: _Export, traced: graph.Graph, folder: Path, config: str) -> Path:
    if traced.notice:
        job.progress.notice(traced.notice)
    folder.mkdir(parents=True)
    if job.options.compact:
        precision.compact(traced.proto)
    graph.save(traced.proto, folder / "model.onnx", job.model_id)
    (folder.parent / CONFIG).write_text(config)
    return folder / "model.onnx"


def _triton_models(job: _Export, lengths: tuple[int, ...]) -> contract.TritonModels:
    batch = job.options.serving.max_batch
    return contract.TritonModels(
        image=contract.ImageTower(name=job.tower("image")[0], max_batch=batch),
        text=tuple(
            contract.TextTower(name=job.tower(f"text-{n}")[0], length=n, max_batch=batch)
            for n in lengths
        ),
    )


def _hashes(staged: Path) -> dict[str, str]:
    """SHA-256 of each file; `config.pbtxt` is left out, since operators may tune it."""
    known: dict[int, str] = {}
    hashes = {}
    for path in sorted(staged.rglob("*")):
        if path.is_file() and path.name != CONFIG:
            inode = path.stat().st_ino  # token lengths share one file by hard links
            known[inode] = known.get(inode) or file_sha256(path)
            hashes[path.relative_to(staged).as_posix()] = known[inode]
    return hashes
