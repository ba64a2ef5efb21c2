"""What an edge asks of the engine, the same for REST and gRPC."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.models.values import ImageItem, Item, TextItem


@dataclass(frozen=True, slots=True)
class Embed:
    """Embed texts and images, mixed as they come."""

    model: str | None  # None: the default model
    items: Sequence[Item]
    dimensions: int | None = None  # None: all
    truncate: bool = True  # False: text over the context length is an error
    skip: bool = False  # whether a bad item fails alone, rather than the whole request
    bulk: bool = False  # whether it may wait for what others want at once


@dataclass(frozen=True, slots=True)
class Classify:
    """Classify images by labels, given here or by the name of a label set."""

    model: str | None
    images: Sequence[ImageItem]
    labels: Sequence[str] | None = None
    label_set: str | None = None
    templates: Sequence[str] | str | None = None  # a str names a template set
    top_k: int | None = None  # None: all


@dataclass(frozen=True, slots=True)
class Similarity:
    """Compare every image with every text."""

    model: str | None
    texts: Sequence[TextItem]
    images: Sequence[ImageItem]


@dataclass(frozen=True, slots=True)
class Rerank:
    """Order documents by their likeness to a query."""

    model: str | None
    query: Item
    documents: Sequence[Item]
    top_n: int | None = None  # None: all
