"""What passes between the stages of a request."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.errors import DeadlineExceeded

Pixels = NDArray[np.uint8]  # [S, S, 3]
TokenIds = NDArray[np.int32]  # [n]
Vectors = NDArray[np.float32]  # [n, D], unit length


@dataclass(frozen=True, slots=True)
class TextItem:
    """A text to embed."""

    text: str
    param: str  # where in the request it stands


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An encoded image to embed."""

    data: bytes | str  # JPEG, PNG, ...; a str is base64 of it
    param: str  # where in the request it stands


Item = TextItem | ImageItem


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenized text, before padding."""

    ids: TokenIds  # int32 [n], with start and end tokens, n <= context length
    truncated: bool  # whether text was cut to fit the context length


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment at which a request's time is over, on the monotonic clock."""

    at: float  # seconds

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """A deadline so many seconds from now."""
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds that are left; always more than zero.

        Raises:
            DeadlineExceeded: None are left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the request ran out of time")
        return left


@dataclass(slots=True)
class Timings:
    """Seconds that a request spent in each stage, as its client waited for them."""

    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of a request's items, in the order of the items."""

    vectors: Vectors  # float32 [n, D]
    truncated: tuple[bool, ...]  # per item; never for images
    tokens: int  # real tokens, padding not counted
    images: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label of a zero-shot classification."""

    index: int  # of the label in the request
    label: str
    score: float  # softmax over the labels, or for SigLIP a sigmoid of its own
    cosine: float


@dataclass(frozen=True, slots=True)
class Classified:
    """The predictions for each image, best first."""

    predictions: tuple[tuple[Prediction, ...], ...]  # per image
    truncated: bool  # whether any label, in any template, was cut
    tokens: int
