"""What was measured of a variant, as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

RECALLS = (  # fields of `Recall` in their order, each with its name for people
    ("image to text, recall@1", "image_to_text_at_1"),
    ("image to text, recall@5", "image_to_text_at_5"),
    ("text to image, recall@1", "text_to_image_at_1"),
    ("text to image, recall@5", "text_to_image_at_5"),
)


@dataclass(frozen=True, slots=True)
class CosineFigures:
    """What a set of cosines comes to."""

    min_cosine: float
    mean_cosine: float
    p1_cosine: float  # first percentile


@dataclass(frozen=True, slots=True)
class Recall:
    """Shares, 0 to 1, of queries whose own partner is among the first 1 or 5."""

    image_to_text_at_1: float
    image_to_text_at_5: float
    text_to_image_at_1: float
    text_to_image_at_5: float


@dataclass(frozen=True, slots=True)
class Run:
    """One tower at one token length (None for pictures) and one batch size."""

    length: int | None
    batch: int
    items: int
    min_cosine: float
    mean_cosine: float
    p1_cosine: float
    bad_vectors: int


@dataclass(frozen=True, slots=True)
class TowerFigures:
    """One tower: the worst of its runs."""

    min_cosine: float
    mean_cosine: float  # lowest mean of a run
    p1_cosine: float  # lowest first percentile of a run
    bad_vectors: int  # not finite or not of length 1, in all runs together
    runs: tuple[Run, ...]

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
class Agreement:
    """Mean share of PyTorch's first 1 or 5 candidates of a picture that are the variant's too."""

    candidates: int  # classes, or texts where there are no classes
    top1: float
    top5: float


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """Share of labelled pictures that are classified rightly, 0 to 1."""

    pictures: int
    accuracy: float
    pytorch_accuracy: float


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Retrieval between pictures and the texts that belong to them."""

    pictures: int
    recall: Recall
    pytorch_recall: Recall


@dataclass(frozen=True, slots=True)
class Ranking:
    """How pictures rank texts with both towers at one batch size, and text at one length.

    Attributes:
        length: Tokens; texts that do not fit are at the next length that holds them.
        batch: Of both towers.
        pictures: That were ranked: those that ran at this batch size.
        texts: That ran at this batch size; the vectors of any others are of the largest one.
        agreement: With PyTorch on the same pictures, as the figures below.
        zero_shot: Where some of the pictures are labelled.
        retrieval: Where some of the pictures have texts of their own.
    """

    length: int
    batch: int
    pictures: int
    texts: int
    agreement: Agreement
    zero_shot: ZeroShot | None = None
    retrieval: Retrieval | None = None

    @property
    def where(self) -> str:
        """For messages."""
        return f"at batch {self.batch}, with text at {self.length} tokens"


@dataclass(frozen=True, slots=True)
class Measured:
    """All figures of a variant, as plain data (`dataclasses.asdict` makes JSON of it).

    Agreement, accuracy and recall are the lowest of those rankings that cover the whole set.
    """

    image: TowerFigures
    text: TowerFigures
    agreement: Agreement
    zero_shot: ZeroShot | None
    retrieval: Retrieval | None
    rankings: tuple[Ranking, ...]  # at least one that covers the whole set

    @classmethod
    def of(cls, image: TowerFigures, text: TowerFigures, rankings: Sequence[Ranking]) -> Self:
        """The worst of at least one ranking."""
        most = max(each.pictures for each in rankings)
        whole = [each for each in rankings if each.pictures == most]
        agreements = [each.agreement for each in whole]
        return cls(
            image, text,
            replace(agreements[0], top1=min(each.top1 for each in agreements),
                    top5=min(each.top5 for each in agreements)),
            _lowest_accuracy([each.zero_shot for each in whole if each.zero_shot]),
            _lowest_recall([each.retrieval for each in whole if each.retrieval]),
            tuple(rankings),
        )  # fmt: skip


def _lowest_accuracy(given: Sequence[ZeroShot]) -> ZeroShot | None:
    return min(given, key=lambda each: each.accuracy, default=None)


def _lowest_recall(given: Sequence[Retrieval]) -> Retrieval | None:
    if not given:
        return None
    lowest = (min(getattr(each.recall, field) for each in given) for _, field in RECALLS)
    return replace(given[0], recall=Recall(*lowest))
