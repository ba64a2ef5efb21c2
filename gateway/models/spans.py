"""The interface through which the stages of a traced request report spans."""

from collections.abc import Sequence
from typing import Protocol


class CallSpan(Protocol):
    """The span of one call of Triton."""

    @property
    def traceparent(self) -> str:
        """The `traceparent` that Triton gets, in W3C's format."""

    def end(self, error: str = "") -> None:
        """Ends the span; `error` names the error of the call, if any."""


class Trace(Protocol):
    """The trace of one request."""

    def stage(self, name: str, start: float, end: float, calls: Sequence[CallSpan] = ()) -> None:
        """Adds the span of a stage, on the clock of `time.perf_counter`, with its calls."""

    def call(self, model: str, rows: int, others: Sequence["Trace"]) -> CallSpan:
        """Begins the span of a call of Triton for this request and `others`."""
