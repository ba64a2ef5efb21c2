"""The seam to traces: what the stages tell of a request that is traced."""

from collections.abc import Sequence
from typing import Protocol


class CallSpan(Protocol):
    """One call of Triton."""

    @property
    def traceparent(self) -> str:
        """What Triton is told, in W3C's format."""
        ...

    def end(self, error: str = "") -> None:
        """The call is over; `error` names what it ended with."""
        ...


class Trace(Protocol):
    """One request that is traced."""

    def stage(self, name: str, start: float, end: float, calls: Sequence[CallSpan] = ()) -> None:
        """A stage is over.

        Args:
            name: Of the stage.
            start: On the clock of `time.perf_counter`.
            end: On the same clock.
            calls: Calls of Triton that it waited for.
        """
        ...

    def call(self, tower: str, rows: int, others: Sequence["Trace"]) -> CallSpan:
        """A call of Triton begins, which is made for this request and for `others`."""
        ...
