"""What was measured of a model against OpenCLIP in PyTorch FP32, as the manifest keeps it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Cosine = Annotated[float, Field(ge=-1, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GateRun(_Frozen):
    """One tower, compared with OpenCLIP in PyTorch FP32 at one length and batch size."""

    length: int | None  # tokens; None for pictures
    batch: int = Field(ge=1)
    items: int = Field(ge=1)
    min_cosine: Cosine
    mean_cosine: Cosine
    p1_cosine: Cosine  # first percentile
    bad_vectors: int = Field(ge=0)  # not finite, or not of length 1


class GateTower(_Frozen):
    """The worst of a tower's runs; `bad_vectors` is the sum."""

    min_cosine: Cosine
    mean_cosine: Cosine
    p1_cosine: Cosine
    bad_vectors: int = Field(ge=0)
    runs: tuple[GateRun, ...] = Field(min_length=1)


class GateAgreement(_Frozen):
    """Mean share of PyTorch's first 1 or 5 candidates of a picture that are the model's too."""

    candidates: int = Field(ge=1)  # classes, or texts where there are no classes
    top1: Share
    top5: Share


class GateZeroShot(_Frozen):
    """Share of labelled pictures that are classified rightly."""

    pictures: int = Field(ge=1)
    accuracy: Share
    pytorch_accuracy: Share


class GateRecall(_Frozen):
    """Share of queries whose own partner is among the first 1 or 5."""

    image_to_text_at_1: Share
    image_to_text_at_5: Share
    text_to_image_at_1: Share
    text_to_image_at_5: Share


class GateRetrieval(_Frozen):
    """Retrieval between pictures and the texts that belong to them."""

    pictures: int = Field(ge=1)
    recall: GateRecall
    pytorch_recall: GateRecall


class GateRanking(_Frozen):
    """The same figures with both towers at one batch size, and text at one length."""

    length: int = Field(ge=1)  # tokens; texts that do not fit are at the next that holds them
    batch: int = Field(ge=1)
    pictures: int = Field(ge=1)
    texts: int = Field(ge=1)  # that ran at this batch size; any others are of the largest one
    agreement: GateAgreement
    zero_shot: GateZeroShot | None
    retrieval: GateRetrieval | None


class GateThresholds(_Frozen):
    """What was asked of the model; None asks nothing."""

    min_cosine: float | None  # of any item
    mean_cosine: float | None  # of each tower
    accuracy_loss: float | None  # zero-shot, in percentage points
    recall_loss: float | None = None  # of any recall, in percentage points
    agreement: float | None = None  # of the first candidates with PyTorch's, 0 to 1


class Gate(_Frozen):
    """What was measured against OpenCLIP in PyTorch FP32 before publishing.

    Agreement, accuracy and recall are the lowest of those rankings that cover the whole set.

    Attributes:
        rankings: At batch 1, 2 and the largest, with text at each length; empty in manifests of
            before these were kept.
        failures: One line for each figure that fell short; only where the model was published
            nevertheless (`--allow-failing`).
    """

    image: GateTower
    text: GateTower
    agreement: GateAgreement
    zero_shot: GateZeroShot | None
    retrieval: GateRetrieval | None
    rankings: tuple[GateRanking, ...] = ()
    thresholds: GateThresholds
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every figure reached its threshold."""
        return not self.failures
