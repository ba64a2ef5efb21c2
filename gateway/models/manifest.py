"""The description of one published model, which `export` writes and the gateway reads.

A model repository holds one `<id>.manifest.json` per model at its root, next to the folders that
Triton reads. `export` writes it last: a model without a manifest is not published.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.models.files import read_file, version
from gateway.models.gate import Gate

SUFFIX = ".manifest.json"
KEPT_SUFFIX = ".version.json"  # manifests of versions that are kept but not served
SCHEMA_VERSION: Literal[1] = 1

PIXELS, TOKEN_IDS = "pixels", "token_ids"  # input names of the two Triton models
IMAGE_FEATURES, TEXT_FEATURES = "image_features", "text_features"  # their output names

MAX_CARD_BYTES = 2**18

MODEL_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

Triple = tuple[float, float, float]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]  # encoders take INT32
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ManifestError(Exception):
    """A manifest is missing, unreadable or inconsistent; the message names the file."""


class _Frozen(BaseModel):
    # A non-finite number would be written as `null`, which cannot be read back.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(_Frozen):
    """How OpenCLIP turns a picture into pixels (`open_clip.transform.PreprocessCfg`)."""

    image_size: int = Field(ge=1, le=4096)  # S: the image encoder takes uint8 [S, S, 3]
    mean: Triple  # of RGB in [0, 1]; applied inside the graph
    std: Triple
    resize_mode: Literal["shortest", "squash", "longest"]
    interpolation: Literal["bicubic", "bilinear"]
    fill_color: int = Field(default=0, ge=0, le=255)  # pads `longest`


class Tokenizer(_Frozen):
    """How text becomes token ids.

    `file` has the format of the `tokenizers` library and lies at the repository's root. Text is
    cleaned as `open_clip.tokenizer.get_clean_fn(clean)` does. With `split_pattern`, the cleaned
    text is split by it (Python's `regex`, ignoring case) before the file's model gets it.
    """

    file: FileName
    sha256: Sha256
    clean: Literal["lower", "whitespace", "canonicalize"]
    split_pattern: str | None = None
    context_length: int = Field(ge=1, le=2**16)
    pad_id: TokenId
    zeroed_id: TokenId | None = None  # OpenCLIP's `strip_sep_token`: this id becomes 0


class ImageEncoder(_Frozen):
    """The Triton model that turns uint8 [n, S, S, 3] into float32 unit vectors [n, D]."""

    name: str
    max_batch: int = Field(ge=1)


class TextEncoder(_Frozen):
    """One Triton model that turns int32 [n, length] into float32 unit vectors [n, D].

    A `packed` one takes any length up to `length`. It drops all ids after the end token, which
    each row must hold, so padding costs almost nothing.
    """

    name: str
    length: int = Field(ge=1)
    max_batch: int = Field(ge=1)
    packed: bool = False


class TritonModels(_Frozen):
    """The Triton models of both encoders; text lengths rise to the full context length."""

    image: ImageEncoder
    text: tuple[TextEncoder, ...] = Field(min_length=1)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all Triton models, the image encoder's first."""
        return self.image.name, *(each.name for each in self.text)


class Golden(_Frozen):
    """Golden vectors from PyTorch FP32, which show whether an encoder is correct.

    `image_features` belongs to `golden_pixels(S)`, `text_features` to `token_ids` (unpadded, and
    no longer than the shortest text encoder).
    """

    token_ids: tuple[TokenId, ...]
    text_features: tuple[float, ...]
    image_features: tuple[float, ...]
    min_cosine: float = Field(gt=0, le=1)


class Manifest(_Frozen):
    """The description of a published model for the gateway."""

    schema_version: Literal[1] = SCHEMA_VERSION
    id: str = Field(pattern=MODEL_ID_PATTERN)  # `model` in requests; names weights and precision
    version: int = Field(ge=1)  # the Triton version (folder) of every encoder in this manifest
    # Over architecture, weights, preprocessing, tokenizer and precision: vectors with equal
    # fingerprints may be compared.
    fingerprint: Sha256
    open_clip_name: str = Field(max_length=4096)
    pretrained: str | None = Field(
        max_length=4096
    )  # OpenCLIP tag or checkpoint file name; None for random weights
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"]
    runtime: Literal["onnxruntime", "openvino", "tensorrt"]  # Triton's backend
    recipe: dict[str, str]  # how `image` and `text` were quantized to INT8 or FP8; else empty
    embedding_size: int = Field(ge=1)
    logit_scale: float  # factor on cosines: OpenCLIP's `logit_scale.exp()`
    logit_bias: float | None  # added to them; SigLIP's alone, whose scores are sigmoids
    preprocessing: Preprocessing
    tokenizer: Tokenizer
    triton: TritonModels
    golden: Golden
    gate: Gate  # the figures of the quality gate
    card: FileName | None = None  # its model card in Markdown, at the repository's root
    files: dict[str, Sha256]  # of each file of the model, by path relative to the repository
    created: int = Field(ge=0, lt=2**53)  # seconds since the epoch

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        lengths = [each.length for each in self.triton.text]
        if lengths != sorted(set(lengths)):
            raise ValueError("triton.text: lengths must rise")
        if lengths[-1] != self.tokenizer.context_length:
            raise ValueError("triton.text: the last length must be the context length")
        if len(lengths) > 1 and any(each.packed for each in self.triton.text):
            raise ValueError("triton.text: a packed encoder must be the only one")
        if len(self.golden.token_ids) > lengths[0]:
            raise ValueError("golden.token_ids: longer than the shortest text encoder")
        for name in ("text_features", "image_features"):
            if len(getattr(self.golden, name)) != self.embedding_size:
                raise ValueError(f"golden.{name}: length differs from embedding_size")
        return self

    @property
    def scoring(self) -> Literal["softmax", "sigmoid"]:
        """Turn cosines into scores: softmax over the labels, or SigLIP's sigmoid for each."""
        return "softmax" if self.logit_bias is None else "sigmoid"

    @property
    def token_lengths(self) -> tuple[int, ...]:
        """The lengths, in tokens, that text is padded to, in rising order; none if it is packed."""
        return tuple(each.length for each in self.triton.text if not each.packed)


def golden_pixels(image_size: int) -> NDArray[np.uint8]:
    """A fixed picture with edges and gradients, uint8 [S, S, 3], equal on every machine."""
    rows, columns, channels = np.ogrid[:image_size, :image_size, :3]
    checks = (rows // 8 + columns // 8) % 2 * 96
    slope = (rows * 3 + columns * 5 + channels * 40) * 255 // (image_size * 8 + 80)
    return np.asarray((checks + slope) % 256, dtype=np.uint8)


def read_manifest(path: Path) -> Manifest:
    """Read one manifest.

    Raises:
        ManifestError: The file is unreadable, not JSON, or has invalid fields; names all of them.
    """
    try:
        text = read_file(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'manifest'}: {item['msg']}"
            for item in error.errors()
        )
        raise ManifestError(f"{path}: {details}") from error
    if path.name != manifest.id + SUFFIX:
        raise ManifestError(f"{path}: its id is {manifest.id!r}, so its name should be "
                            f"{manifest.id + SUFFIX}")  # fmt: skip
    return manifest


def read_repository(repository: Path) -> dict[str, Manifest]:
    """Read every manifest of a model repository, by model id, in the order of the ids.

    Raises:
        ManifestError: The folder is missing or has no manifest, or a manifest is wrong.
    """
    if not repository.is_dir():
        raise ManifestError(f"{repository}: no such model repository")
    manifests = [read_manifest(path) for path in sorted(repository.glob(f"*{SUFFIX}"))]
    if not manifests:
        raise ManifestError(
            f"{repository}: no model is published here (no *{SUFFIX}); "
            "publish one with `python -m export MODEL`"
        )
    return {manifest.id: manifest for manifest in manifests}


def repository_state(repository: Path) -> object:
    """A value that changes when a manifest of a model repository changes; cheap to call."""
    return version(sorted(repository.glob(f"*{SUFFIX}")))


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
