"""What the client takes and gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from openclip_triton.errors import ClientError

Vector = NDArray[np.float32]  # [D], unit length
Vectors = NDArray[np.float32]  # [n, D], unit length
Image = bytes | bytearray | memoryview | Path  # encoded, or its file
Content = str | Image  # a str is a text, never a path

K = TypeVar("K")
C = TypeVar("C", bound=Content)


@dataclass(frozen=True, slots=True)
class Result(Generic[K]):
    """What became of one item of a stream: a vector, or an error."""

    id: K  # the caller's own
    vector: Vector | None  # float32 [D]
    error: ClientError | None
    truncated: bool = False  # text over the context length was cut


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How much a stream holds at a time, and how long it tries."""

    max_items: int = 256  # read, sent or answered, and not yet taken by the caller
    max_bytes: int = 64 * 2**20  # of their content; one larger item goes alone
    max_item_bytes: int = 44 * 2**20  # of one item; a larger one is not sent
    readers: int = 4  # threads that read files
    retries: int = 8  # of an item, and of the connection while nothing is answered
    backoff_s: float = 0.25  # before the first retry; doubled for each further one
    max_backoff_s: float = 10.0
    idle_s: float = 60.0  # without any answer, the connection counts as lost

    def backoff(self, attempt: int) -> float:
        """Seconds before a retry, the first of which is number 1."""
        return float(min(self.max_backoff_s, self.backoff_s * 2.0 ** (attempt - 1)))


@dataclass(frozen=True, slots=True)
class Space:
    """What names a space of vectors: they may be compared where all of it is equal."""

    model: str
    fingerprint: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label of a zero-shot classification."""

    label: str
    index: int  # of the label in the request or the label set
    score: float  # softmax over the labels; for SigLIP models a sigmoid
    cosine: float


@dataclass(frozen=True, slots=True)
class Similarity:
    """Every image with every text."""

    cosine: NDArray[np.float64]  # [images, texts]
    logits_per_image: NDArray[np.float64]  # [images, texts]
    logits_per_text: NDArray[np.float64]  # [texts, images]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document, ranked by its likeness to the query."""

    index: int  # of the document in the request
    score: float  # its cosine with the query


@dataclass(frozen=True, slots=True)
class Model:
    """A served model."""

    id: str
    version: int
    fingerprint: str
    open_clip_name: str
    pretrained: str | None  # None: random weights
    precision: str
    runtime: str
    embedding_size: int
    context_length: int
    image_size: int
    scoring: str  # softmax or sigmoid
    gate_passed: bool  # False: published although it fell short of PyTorch
    aliases: tuple[str, ...]  # its other names
    is_default: bool  # whether requests that name no model are for it
