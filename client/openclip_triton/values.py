"""Arguments and results of the client."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from openclip_triton.errors import ClientError

Vector = NDArray[np.float32]  # [D], unit length
Vectors = NDArray[np.float32]  # [n, D], unit length
Image = bytes | bytearray | memoryview | Path  # encoded bytes, or a file
Content = str | Image  # a str is a text, never a path

K = TypeVar("K")
C = TypeVar("C", bound=Content)


@dataclass(frozen=True, slots=True)
class Result(Generic[K]):
    """The result of one item of a stream: a vector or an error."""

    id: K  # chosen by the caller
    vector: Vector | None  # float32 [D]
    error: ClientError | None
    truncated: bool = False  # text over the context length was cut


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Limits of a stream: memory, retries and timeouts."""

    max_items: int = 256  # read, and their results not yet taken by the caller
    max_bytes: int = 64 * 2**20  # of their content; a larger item is sent alone
    max_item_bytes: int = 44 * 2**20  # of one item; a larger one is not sent
    readers: int = 4  # threads that read files
    retries: int = 8  # of an item, and of the connection while nothing is answered
    backoff_s: float = 0.25  # before the first retry; doubles with each
    max_backoff_s: float = 10.0
    idle_s: float = 60.0  # a connection without answers for longer is lost

    def backoff(self, attempt: int) -> float:
        """Seconds to wait before retry number `attempt`, from 1."""
        return float(min(self.max_backoff_s, self.backoff_s * 2.0 ** (attempt - 1)))


@dataclass(frozen=True, slots=True)
class Space:
    """Identity of an embedding space: vectors of equal spaces may be compared."""

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
    """Scores of every image with every text."""

    cosine: NDArray[np.float64]  # [images, texts]
    logits_per_image: NDArray[np.float64]  # [images, texts]
    logits_per_text: NDArray[np.float64]  # [texts, images]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document of a ranking."""

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
    gate_passed: bool  # False: published despite a failed gate
    aliases: tuple[str, ...]  # its other names
    is_default: bool  # whether requests without a model use it
    card: str | None = None  # REST's path of its model card; None: exported without one
