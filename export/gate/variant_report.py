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
    """One measured variant."""

    id: str  # of its model, published or not
    precision: str  # fp32, fp16, bf16, int8 or fp8
    runtime: str  # onnxruntime, openvino or tensorrt
    size_bytes: int  # of its files, counting shared files once
    measured: Measured
    image_cosines: Cosines  # float64 [pictures]
    text_cosines: Cosines  # float64 [texts]
    thresholds: Thresholds = Thresholds()  # noqa: RUF009 (frozen)
    failures: tuple[str, ...] = ()  # missed thresholds
    published: bool = True  # possibly as failing
    recipe: str = ""  # of INT8 and FP8
    latency: tuple[tuple[str, Latency], ...] = ()  # by encoder (image, text), if timed
    speeds: tuple[Speed, ...] = ()  # against FP32 on this machine, if compared
    notes: tuple[str, ...] = ()  # warnings about what was not measured
    about: str = ""  # the model in Markdown, if it is published

    @property
    def outcome(self) -> str:
        """The outcome in one to three words."""
        if not self.failures:
            return "published" if self.published else "passed, not published"
        return "published as failing" if self.published else "refused"
