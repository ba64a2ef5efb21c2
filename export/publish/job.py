"""Options of an export, and the inputs that all variants of a model share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from export.gate.evaluation import EvaluationSet
from export.gate.measurement import SMALL_BATCH_ITEMS
from export.gate.reference import Inputs, References
from export.precision.ranges import Method
from export.precision.variants import Graphs, Runtime, Variant
from export.publish.pbtxt import Serving
from export.publish.progress import Progress
from export.source.checkpoint import Checkpoint
from gateway.models.gate import Thresholds

DRAWN = "drawn"  # in place of a folder: the demo's scenes


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line; `python -m export --help` explains each."""

    model: str
    repository: Path
    pretrained: str | None = None
    model_id: str | None = None
    version: int | None = None  # given: keeps the previous version
    tokenizer: Path | None = None
    text_config: Path | None = None
    custom: bool = False  # `model` is `module:factory`
    token_lengths: tuple[int, ...] | None = None  # None: packed, where the model allows
    compact: bool = False
    variants: tuple[Variant, ...] = (Variant("fp32", "onnxruntime"),)
    samples: tuple[Path, ...] = ()
    evaluate: tuple[str, ...] = ()  # folders, webdatasets, or DRAWN
    evaluate_split: str = "test"  # of webdatasets
    evaluate_texts: Path | None = None
    calibrate: str | None = None  # a folder, or DRAWN
    calibrate_texts: Path | None = None
    method: Method = "percentile"
    thresholds: Thresholds = field(default_factory=Thresholds)  # overrides, where not None
    licence: str | None = None  # of the weights; None: as their card on the hub says
    allow_failing: bool = False
    allow_slow: bool = False
    small_batch_items: int = SMALL_BATCH_ITEMS
    serving: Serving = field(default_factory=Serving)


@dataclass(frozen=True, slots=True)
class ExportJob:
    """The inputs that all variants of a model share."""

    options: Options
    checkpoint: Checkpoint
    traced: Mapping[Runtime, Graphs]  # FP32
    dataset: EvaluationSet
    inputs: Inputs  # the evaluation set, as the gateway prepares it
    calibrate: Inputs | None  # for INT8 and FP8
    truth: References
    thresholds: Mapping[str, Thresholds]  # by precision
    progress: Progress

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token lengths to measure text at, rising; packed text is served at any length."""
        return tuple(sorted({length for graphs in self.traced.values() for length in graphs.text}))
