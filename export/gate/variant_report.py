"""The measurements of one variant, for the report."""

from dataclasses import dataclass

from export.gate.metrics import Cosines
from gateway.models.gate import Measured, Speed, Thresholds


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds at batch 1."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class VariantReport:
    """One measured variant.

    Attributes:
        id: Its model id, published or not.
        precision: `fp32`, `fp16`, `bf16`, `int8` or `fp8`.
        runtime: `onnxruntime`, `openvino` or `tensorrt`.
        size_bytes: Size of its files, counting shared files once.
        measured: Its figures.
        image_cosines: Cosine of each picture, float64 [pictures].
        text_cosines: Cosine of each text, float64 [texts].
        thresholds: Its thresholds.
        failures: Missed thresholds; empty if it passed.
        published: Whether it is published, possibly as failing.
        recipe: Description of its recipe, if it is quantized.
        latency: Latency by encoder (`image`, `text`), if timed.
        speeds: Speed against FP32 on this machine, by batch size, if it was compared.
        notes: Warnings about what was not measured.
        about: Description of the model in Markdown, if it is published.
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
    speeds: tuple[Speed, ...] = ()
    notes: tuple[str, ...] = ()
    about: str = ""

    @property
    def outcome(self) -> str:
        """The outcome in one to three words."""
        if not self.failures:
            return "published" if self.published else "passed, not published"
        return "published as failing" if self.published else "refused"
