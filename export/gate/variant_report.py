"""What is reported of one variant."""

from dataclasses import dataclass

from export.gate.metrics import Cosines
from gateway.models.gate import Measured, Thresholds


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds at batch 1."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class VariantReport:
    """One variant as it was measured.

    Attributes:
        id: The model id that it has, or would have had.
        precision: `fp32`, `fp16` or `int8`.
        runtime: `onnxruntime` or `tensorrt`.
        size_bytes: Of its files, each one counted once.
        measured: Its figures.
        image_cosines: Of each picture, float64 [pictures].
        text_cosines: Of each text, float64 [texts].
        thresholds: What was asked of it.
        failures: What fell short; empty when it passed.
        published: Whether it was, be it as failing.
        recipe: How it was made, in a sentence or more.
        latency: By tower (`image`, `text`), where it was timed.
        notes: What was not judged, in sentences.
    """

    id: str
    precision: str
    runtime: str
    size_bytes: int
    measured: Measured
    image_cosines: Cosines
    text_cosines: Cosines
    thresholds: Thresholds = Thresholds()  # noqa: RUF009 (frozen)
    failures: tuple[str, ...] = ()
    published: bool = True
    recipe: str = ""
    latency: tuple[tuple[str, Latency], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """In a word or three."""
        if not self.failures:
            return "published" if self.published else "passed, not published"
        return "published as failing" if self.published else "refused"
