"""The inputs that the variants of a model share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from export.gate.evaluation import EvaluationSet
from export.gate.reference import Inputs, References
from export.precision.int8 import Method
from export.precision.variants import Graphs, Runtime
from export.progress import Progress
from export.publish.pbtxt import Serving
from export.source.checkpoint import Checkpoint
from gateway.models.gate import Thresholds


@dataclass(frozen=True, slots=True)
class ExportJob:
    """Everything that the variants of a model share."""

    root: Path
    checkpoint: Checkpoint
    traced: Mapping[Runtime, Graphs]  # FP32
    dataset: EvaluationSet
    inputs: Inputs  # the evaluation set, as the gateway prepares it
    calibrate: Inputs | None  # for INT8
    truth: References
    thresholds: Mapping[str, Thresholds]  # by precision
    method: Method
    compact: bool
    allow_failing: bool
    allow_slow: bool
    small_batch_items: int  # maximum to measure at batch 1 and 2
    serving: Serving
    progress: Progress
    evaluated: bool = False  # whether the set has more than the built-in pictures
    keep: bool = False  # whether to keep the previous version

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token lengths to measure text at, rising; packed text is served at any length."""
        return tuple(sorted({length for graphs in self.traced.values() for length in graphs.text}))
