"""What the variants of a model have in common."""

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
    """All that the variants of a model have in common."""

    root: Path
    checkpoint: Checkpoint
    traced: Mapping[Runtime, Graphs]  # FP32
    what: EvaluationSet
    inputs: Inputs  # the evaluation set, as the gateway prepares it
    calibrate: Inputs | None  # to take the ranges of INT8 from
    truth: References
    thresholds: Mapping[str, Thresholds]  # by precision
    method: Method
    compact: bool
    allow_failing: bool
    small_batch_items: int  # most to measure at batch 1 and 2
    serving: Serving
    progress: Progress
    evaluated: bool = False  # whether the set has more than the built-in pictures
    keep: bool = False  # whether the version that was published before stays beside the new one

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token lengths that text is measured, and unless it is packed served, at; rising."""
        return tuple(sorted({length for graphs in self.traced.values() for length in graphs.text}))
