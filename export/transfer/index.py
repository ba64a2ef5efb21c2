"""The index of a pushed model: its manifest, and the size and SHA-256 of each file.

A place holds the index, which is written last, and each file under its SHA-256, so a newer push
never changes a file that an index names.
"""

from pathlib import Path
from typing import Literal, Self

from google.protobuf import text_format
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.errors import TransferError, brief
from export.publish.leftovers import CONFIG, card_file, encoders_of, tokenizer_file
from gateway.models.manifest import MAX_CARD_BYTES, Manifest, Sha256

NAME = "openclip-triton.json"
MAX_BYTES = 8 * 2**20  # of an index; the largest manifests take less than 1 MiB
_SHAPES = {  # files in the version folder of an encoder, by backend
    "onnxruntime": {"model.onnx", "model.onnx.data"},
    "openvino": {"model.xml", "model.bin"},
    "tensorrt": {"model.plan", "model.plan.json", "model.onnx", "model.onnx.data"},
}
# Fields that a `config.pbtxt` may have. Others, such as `runtime`, make Triton load a library or
# start Python in an environment from any file of the model, and so run its content.
_FIELDS = {
    "name", "backend", "version_policy", "max_batch_size", "input", "output", "instance_group",
    "dynamic_batching", "optimization", "default_model_filename", "parameters",
}  # fmt: skip
_PARAMETERS = {
    "intra_op_thread_count", "inter_op_thread_count", "execution_mode", "enable_mem_arena",
    "enable_mem_pattern", "memory.enable_memory_arena_shrinkage", "split_batches",
    "cudnn_conv_algo_search", "INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS", "NUM_STREAMS",
    "PERFORMANCE_HINT", "HINT_BF16",
}  # fmt: skip


class File(BaseModel):
    """Size and content of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0, lt=2**63)  # bytes
    sha256: Sha256

    @property
    def name(self) -> str:
        """Its name in a place."""
        return f"files/{self.sha256}"


class Index(BaseModel):
    """A model and its files, by path relative to the model repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    manifest: Manifest
    files: dict[str, File]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Accept only an export's paths: none leaves the repository or belongs to another model."""
        made = self.manifest
        texts = (f"text{'' if each.packed else f'-{each.length}'}" for each in made.triton.text)
        if [*encoders_of(made)] != [f"{made.id}.{suffix}" for suffix in ("image", *texts)]:
            raise ValueError("manifest.triton: encoders must be named for the model")
        if made.tokenizer.file != tokenizer_file(made.id, made.version):
            raise ValueError("manifest.tokenizer.file: must be named for the model")
        if made.card not in (None, card_file(made.id, made.version)):
            raise ValueError("manifest.card: must be named for the model")
        needed = {made.tokenizer.file, *(f"{encoder}/{CONFIG}" for encoder in encoders_of(made))}
        needed |= {*filter(None, [made.card])}
        allowed = needed | {
            f"{encoder}/{made.version}/{name}"
            for encoder in encoders_of(made)
            for name in _SHAPES[made.runtime]
        }
        if wrong := sorted(self.files.keys() - allowed):
            raise ValueError(f"files: {wrong[0]!r} is no file of such a model")
        if missing := sorted(needed - self.files.keys()):
            raise ValueError(f"files: {missing[0]!r} is missing")
        if made.card and self.files[made.card].size > MAX_CARD_BYTES:
            raise ValueError(f"files: the card has more than {MAX_CARD_BYTES} bytes")
        hashes = {k: v.sha256 for k, v in self.files.items() if not k.endswith(f"/{CONFIG}")}
        if hashes != made.files:
            raise ValueError("files: differ from those of the manifest")
        return self


def read_index(text: bytes, where: str) -> Index:
    """Parse the index of a place, which messages name as `where`.

    Raises:
        TransferError: It is not JSON, of another version, or names other files than an export's.
    """
    try:
        return Index.model_validate_json(text)
    except ValidationError as error:
        raise TransferError(f"{where}: {NAME}: {details(error)}") from error


def details(error: ValidationError) -> str:
    """The errors of an index, in one line."""
    wrong = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return brief(ValueError("; ".join(wrong).removeprefix(": ")))


def renumbered(manifest: Manifest, version: int) -> Manifest:
    """The manifest of the same model under another version number."""
    own = manifest.tokenizer
    return manifest.model_copy(
        update={
            "version": version,
            "card": manifest.card and card_file(manifest.id, version),
            "files": {moved(path, manifest, version): sha for path, sha in manifest.files.items()},
            "tokenizer": own.model_copy(update={"file": tokenizer_file(manifest.id, version)}),
        }
    )


def moved(path: str, manifest: Manifest, version: int) -> str:
    """Path of a file of the manifest's version in another version."""
    if path == manifest.tokenizer.file:
        return tokenizer_file(manifest.id, version)
    if path == manifest.card:
        return card_file(manifest.id, version)
    encoder, _, rest = path.partition("/")
    return f"{encoder}/{rest.replace(f'{manifest.version}/', f'{version}/', 1)}"


def check_config(path: Path, runtime: str, where: str) -> None:
    """Check that a `config.pbtxt` runs its own encoder and nothing else.

    Raises:
        TransferError: It does not, or has fields that an encoder does not need.
    """
    encoder, config = path.parent.name, ModelConfig()
    wrong = f"{where}: {encoder}/{CONFIG}: does not run {encoder} in {runtime}"
    if path.stat().st_size > MAX_BYTES:
        raise TransferError(wrong)
    try:
        text_format.Parse(path.read_text(), config)
    except (ValueError, text_format.ParseError) as error:
        raise TransferError(wrong) from error
    if (config.name, config.backend) != (encoder, runtime):
        raise TransferError(wrong)
    if more := _more(config, runtime):
        raise TransferError(f"{wrong} alone: it has {more}")


def _more(config: ModelConfig, runtime: str) -> str:
    """The field that could run other code; empty if there is none."""
    found = {field.name for field, _ in config.ListFields()} - _FIELDS
    found |= {f"the parameter {key}" for key in config.parameters.keys() - _PARAMETERS}
    if config.optimization.HasField("execution_accelerators"):
        found.add("execution_accelerators")
    if config.default_model_filename not in {"", *_SHAPES[runtime]}:
        found.add("another default_model_filename")
    return ", ".join(sorted(found))
