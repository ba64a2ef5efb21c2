"""The values that pass between the stages of a request."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.errors import DeadlineExceeded, RequestError
from gateway.models.manifest import Manifest
from gateway.models.spans import CallSpan, Trace

Pixels = NDArray[np.uint8]  # [S, S, 3]
TokenIds = NDArray[np.int32]  # [n]
Vectors = NDArray[np.float32]  # [n, D], unit length


@dataclass(frozen=True, slots=True)
class TextItem:
    """A text to embed."""

    text: str
    param: str  # its field in the request


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An encoded image to embed."""

    data: bytes | str  # JPEG, PNG, ...; a str is a data URL, a URL, or base64
    param: str  # its field in the request


Item = TextItem | ImageItem


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenized text, before padding."""

    ids: TokenIds  # int32 [n], with start and end tokens, n <= context length
    truncated: bool  # whether the text was cut to the context length


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment at which a request must end, on the monotonic clock."""

    at: float  # seconds

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The deadline `seconds` from now."""
        return cls(time.monotonic() + seconds)

    @staticmethod
    def now() -> float:
        """The time on the same clock."""
        return time.monotonic()

    def left(self) -> float:
        """The seconds that are left; always more than zero.

        Raises:
            DeadlineExceeded: No time is left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the request ran out of time")
        return left


@dataclass(frozen=True, slots=True)
class Cost:
    """What a valid request takes before any work on it."""

    items: int  # texts and images: of the room in flight, and of the key's quota
    images: int = 0  # among them
    bytes: int = 0  # of pixels and of the answer, beside the request's own


@dataclass(slots=True)
class Timings:
    """What the stages report of a request: what it waited for, and what was embedded."""

    stages: dict[str, float] = field(default_factory=dict)  # seconds by stage
    model: str = ""  # the model's id, once it is known
    client: str = ""  # who sent the request, see `gateway.access.clients`; "": the gateway
    texts: int = 0
    images: int = 0
    failed: int = 0  # items that were skipped, each with its error
    trace: Trace | None = None  # where the request is traced

    def stage(self, name: str) -> "Stage":
        """Adds the duration of a `with` block to a stage."""
        return Stage(self, name, time.perf_counter())

    def add(
        self, name: str, seconds: float, *, end: float | None = None, calls: Sequence[CallSpan] = ()
    ) -> None:
        """Adds time to a stage.

        Args:
            name: The stage.
            seconds: Its duration.
            end: When it ended, on the clock of `time.perf_counter`; None: now.
            calls: The calls of Triton that it waited for, where they are traced.
        """
        self.stages[name] = self.stages.get(name, 0.0) + seconds
        if self.trace is not None:
            end = time.perf_counter() if end is None else end
            self.trace.stage(name, end - seconds, end, calls)


@dataclass(slots=True)
class Stage:
    """One stage of a request, which ends with its `with` block."""

    timings: Timings
    name: str
    start: float  # on the clock of `time.perf_counter`

    def __enter__(self) -> None:
        """The stage began when this was made."""

    def __exit__(self, *_: object) -> None:
        self.timings.add(self.name, time.perf_counter() - self.start)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of a request's items, in the order of the items."""

    manifest: Manifest  # of the model
    vectors: Vectors  # float32 [n, D]; zeros where an item failed
    truncated: tuple[bool, ...]  # per item; never for images
    failed: Mapping[int, RequestError]  # by the index of the item
    tokens: int  # without padding
    images: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label of a zero-shot classification."""

    index: int  # of the label in the request, or in its label set
    label: str
    score: float  # softmax over the labels, or SigLIP's sigmoid
    cosine: float


@dataclass(frozen=True, slots=True)
class Classified:
    """The predictions for each image, best first."""

    manifest: Manifest
    predictions: tuple[tuple[Prediction, ...], ...]  # per image
    truncated: bool  # whether any label, in any template, was cut
    tokens: int
    images: int


@dataclass(frozen=True, slots=True)
class Compared:
    """Each image compared with each text."""

    manifest: Manifest
    cosine: NDArray[np.float64]  # [images, texts]
    logits: NDArray[np.float64]  # [images, texts]
    truncated: tuple[bool, ...]  # per text
    tokens: int
    images: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """Documents by their similarity to the query, best first."""

    manifest: Manifest
    order: tuple[tuple[int, float], ...]  # each document's index and cosine
    truncated: bool  # whether the query or any document was cut
    tokens: int
    images: int
