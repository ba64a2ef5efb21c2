"""The values that pass between the stages of a request, and its time limit."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from gateway.errors import DeadlineExceeded, GatewayError, RequestError
from gateway.models.manifest import Manifest

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
    """The time by which a request must end, on the monotonic clock."""

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


class TimeLimit:
    """Ends the task inside its `with` block with an error: at the deadline, or by `end`.

    One timer covers the deadline and an earlier time, which can be postponed at no cost.

    Attributes:
        deadline: Of the request.
        earlier: When the block ends before its deadline, on the same clock; None: never.
    """

    def __init__(
        self, seconds: float, earlier_s: float | None = None,
        too_early: Callable[[], GatewayError] | None = None,
    ) -> None:  # fmt: skip
        """Start the time; `too_early` makes the error of the earlier time."""
        self.deadline = Deadline.after(seconds)
        self.earlier = None if earlier_s is None else Deadline.now() + earlier_s
        self._too_early = too_early
        self._seconds = seconds
        self._error: GatewayError | None = None
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101 - narrows what a coroutine always has
        self._cancelling = self._task.cancelling()
        self._arm()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
        task, self._task = self._task, None
        # As in `asyncio.timeout`: a cancellation from elsewhere passes through.
        if (
            self._error is not None
            and task is not None
            and (task.uncancel() <= self._cancelling and kind is asyncio.CancelledError)
        ):
            raise self._error from None

    def end(self, error: GatewayError) -> None:
        """End the block with an error, unless it has ended."""
        if self._error is None and self._task is not None:
            self._error = error
            self._task.cancel()

    def _arm(self) -> None:
        at = self.deadline.at if self.earlier is None else min(self.earlier, self.deadline.at)
        if at < math.inf:  # a timer may fire slightly early
            self._timer = self._loop.call_later(max(0.0, at - Deadline.now()), self._look)

    def _look(self) -> None:
        now = Deadline.now()
        if now >= self.deadline.at:
            self.end(
                DeadlineExceeded(f"the request was not answered within {self._seconds:g} seconds")
            )
        elif self.earlier is not None and self._too_early is not None and now >= self.earlier:
            self.end(self._too_early())
        else:
            self._arm()


@dataclass(frozen=True, slots=True)
class Cost:
    """The resources that a valid request claims before any work on it."""

    items: int  # texts and images: from the room in flight and the key's quota
    images: int = 0  # among them
    bytes: int = 0  # of pixels and of the response, in addition to the request's own


class CallSpan(Protocol):
    """The span of one call of Triton, where a request is traced."""

    @property
    def traceparent(self) -> str:
        """The `traceparent` that Triton gets, in W3C's format."""

    def end(self, error: str = "") -> None:
        """End the span; `error` names the error of the call, if any."""


class Trace(Protocol):
    """The trace of one request, to which its stages report spans."""

    def stage(self, name: str, start: float, end: float, calls: Sequence[CallSpan] = ()) -> None:
        """Add the span of a stage, on the clock of `time.perf_counter`, with its calls."""

    def call(self, model: str, rows: int, others: Sequence["Trace"]) -> CallSpan:
        """Begin the span of a call of Triton for this request and `others`."""


@dataclass(slots=True)
class Timings:
    """The stages' report on a request: the time of each stage, and what was embedded."""

    stages: dict[str, float] = field(default_factory=dict)  # seconds by stage
    model: str = ""  # the model's id, once it is known
    client: str = ""  # who sent the request, see `gateway.access.clients`; "": the gateway
    texts: int = 0
    images: int = 0
    failed: int = 0  # items that were skipped, each with its error
    trace: Trace | None = None  # where the request is traced

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of a `with` block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(
        self, name: str, seconds: float, *, end: float | None = None, calls: Sequence[CallSpan] = ()
    ) -> None:
        """Add time to a stage.

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


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a request's work."""

    deadline: Deadline
    timings: Timings  # collects the time of each stage and counts of embedded items


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
    """One label of a zero-shot classification; REST answers with these fields."""

    label: str
    index: int  # of the label in the request, or in its label set
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
