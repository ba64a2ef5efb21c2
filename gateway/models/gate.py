"""Figures of a model measured against OpenCLIP in PyTorch FP32, as the manifest holds them.

Plain dataclasses, which `export` fills. When they come from a manifest's JSON, pydantic checks the
ranges in their annotations and refuses unknown fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, ClassVar, Self

from pydantic import ConfigDict, Field

RECALLS = (  # the fields of `Recall` in order, each with a readable name
    ("image to text, recall@1", "image_to_text_at_1"),
    ("image to text, recall@5", "image_to_text_at_5"),
    ("text to image, recall@1", "text_to_image_at_1"),
    ("text to image, recall@5", "text_to_image_at_5"),
)

# Metrics of `DataSetFigures` with a threshold for the loss.
DATA_SET_ACCURACY = "acc1"
DATA_SET_RECALLS = ("image_retrieval_recall@5", "text_retrieval_recall@5")

Cosine = Annotated[float, Field(ge=-1, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class _Strict:
    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Run(_Strict):
    """One encoder at one token length (None for pictures) and one batch size."""

    length: int | None
    batch: Positive
    items: Positive
    min_cosine: Cosine
    mean_cosine: Cosine
    p1_cosine: Cosine  # first percentile
    bad_vectors: Count  # not finite, or not of length 1


@dataclass(frozen=True, slots=True)
class EncoderFigures(_Strict):
    """One encoder: the worst of its runs."""

    min_cosine: Cosine
    mean_cosine: Cosine  # lowest mean of a run
    p1_cosine: Cosine  # lowest first percentile of a run
    bad_vectors: Count  # in all runs together
    runs: Annotated[tuple[Run, ...], Field(min_length=1)]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Self:
        """The worst of at least one run."""
        return cls(
            min(run.min_cosine for run in runs),
            min(run.mean_cosine for run in runs),
            min(run.p1_cosine for run in runs),
            sum(run.bad_vectors for run in runs),
            tuple(runs),
        )


@dataclass(frozen=True, slots=True)
class Agreement(_Strict):
    """Mean share of a picture's first 1 or 5 candidates in PyTorch that the variant also has."""

    candidates: Positive  # classes, or texts where there are no classes
    top1: Share
    top5: Share


@dataclass(frozen=True, slots=True)
class ZeroShot(_Strict):
    """Share of labelled pictures that are classified correctly."""

    pictures: Positive
    accuracy: Share
    pytorch_accuracy: Share


@dataclass(frozen=True, slots=True)
class Recall(_Strict):
    """Share of queries whose match is among the first 1 or 5 results."""

    image_to_text_at_1: Share
    image_to_text_at_5: Share
    text_to_image_at_1: Share
    text_to_image_at_5: Share


@dataclass(frozen=True, slots=True)
class Retrieval(_Strict):
    """Retrieval between pictures and the texts that belong to them."""

    pictures: Positive
    recall: Recall
    pytorch_recall: Recall


@dataclass(frozen=True, slots=True)
class Ranking(_Strict):
    """Rankings of texts by pictures, at one batch size of both encoders and one text length."""

    length: Positive  # tokens; longer texts run at the next length that holds them
    batch: Positive  # of both encoders
    pictures: Positive  # ranked pictures: those that ran at this batch size
    texts: Positive  # that ran at this batch size; others ran at the largest one
    agreement: Agreement  # with PyTorch, on the same pictures; so are the figures below
    zero_shot: ZeroShot | None = None  # if some of the pictures are labelled
    retrieval: Retrieval | None = None  # if some of the pictures have texts of their own

    @property
    def where(self) -> str:
        """For messages."""
        return f"at batch {self.batch}, with text at {self.length} tokens"


@dataclass(frozen=True, slots=True)
class DataSetFigures(_Strict):
    """CLIP_benchmark's metrics on one data set, under its names: `acc1`, `acc5` and others."""

    name: str
    pictures: Positive
    metrics: dict[str, Share]
    pytorch_metrics: dict[str, Share]


@dataclass(frozen=True, slots=True)
class Thresholds(_Strict):
    """The figures that a variant must reach; None: no threshold."""

    min_cosine: float | None = None  # of any item
    mean_cosine: float | None = None  # of each encoder
    # The largest losses in percentage points, on the whole and on each data set:
    accuracy_loss: float | None = None  # of zero-shot accuracy
    recall_loss: float | None = None  # of any retrieval recall
    agreement: float | None = None  # share of first candidates that are PyTorch's, 0 to 1


@dataclass(frozen=True, slots=True)
class Measured(_Strict):
    """All figures of a variant.

    Agreement, accuracy and recall are the lowest over the rankings that cover the whole set.
    """

    image: EncoderFigures
    text: EncoderFigures
    agreement: Agreement
    zero_shot: ZeroShot | None
    retrieval: Retrieval | None
    # At batch 1, 2 and the largest, with text at each length; empty only in older manifests.
    rankings: tuple[Ranking, ...] = ()
    data_sets: tuple[DataSetFigures, ...] = ()

    @classmethod
    def of(
        cls,
        image: EncoderFigures,
        text: EncoderFigures,
        rankings: Sequence[Ranking],
        data_sets: Sequence[DataSetFigures] = (),
    ) -> Self:
        """The worst of at least one ranking."""
        most = max(each.pictures for each in rankings)
        whole = [each for each in rankings if each.pictures == most]
        agreements = [each.agreement for each in whole]
        return cls(
            image, text,
            replace(agreements[0], top1=min(each.top1 for each in agreements),
                    top5=min(each.top5 for each in agreements)),
            min((each.zero_shot for each in whole if each.zero_shot),
                key=lambda each: each.accuracy, default=None),
            _lowest_recall([each.retrieval for each in whole if each.retrieval]),
            tuple(rankings), tuple(data_sets),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speed(_Strict):
    """Speed of a variant relative to FP32 at one batch size: FP32's time divided by its own.

    Attributes:
        batch: Number of items in a call.
        image: Of the image encoder.
        text: Of the text encoder, at the shortest token length.
        both: Of an image and a text together; decides which variant is faster.
    """

    batch: Positive
    image: float
    text: float
    both: float

    def describe(self) -> str:
        """The figures in words."""
        return (
            f"{self.both:.2f} times as fast as FP32 at batch {self.batch} "
            f"(image {self.image:.2f}, text {self.text:.2f})"
        )


@dataclass(frozen=True, slots=True)
class Gate(Measured):
    """The figures of a model before it was published, and its thresholds."""

    thresholds: Thresholds = field(kw_only=True)
    # One line per figure below its threshold, if `--allow-failing` published the model anyway.
    failures: tuple[str, ...] = field(default=(), kw_only=True)
    # Relative to FP32 on this processor; empty for FP32 itself, on a GPU and in older manifests.
    speeds: tuple[Speed, ...] = field(default=(), kw_only=True)
    processor: str = field(default="", kw_only=True)

    @classmethod
    def of_measured(cls, measured: Measured, thresholds: Thresholds) -> Self:
        """These figures, with their thresholds."""
        figures = {each.name: getattr(measured, each.name) for each in fields(measured)}
        return cls(**figures, thresholds=thresholds)

    @property
    def passed(self) -> bool:
        """Whether every figure reached its threshold."""
        return not self.failures


def _lowest_recall(given: Sequence[Retrieval]) -> Retrieval | None:
    if not given:
        return None
    lowest = (min(getattr(each.recall, name) for each in given) for _, name in RECALLS)
    return replace(given[0], recall=Recall(*lowest))
