"""The requests that the engine takes from either edge, and its plan for each."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.errors import RequestError
from gateway.models.values import Cost, Deadline, ImageItem, Item, TextItem

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan(Generic[T]):
    """A valid request: what it takes, and the work that answers it.

    The edge takes the cost from the room in flight and from the key's quota before it runs the
    plan. Nothing is taken for a request that is wrong, as there is no plan for it.
    """

    cost: Cost
    run: Callable[[Deadline], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Embed:
    """Embed texts and images, mixed as they come."""

    model: str | None  # None: the default model
    items: Sequence[Item | RequestError]  # an error where an edge could not read an item
    dimensions: int | None = None  # None: all
    truncate: bool = True  # False: text over the context length is an error
    skip: bool = False  # whether a bad item fails alone, rather than the whole request
    copies: int = 1  # of each vector in the answer, in several types
    bulk: bool = False  # whether it goes behind requests that need a quick answer
    param: str = "input"  # the client's name of the field that holds the items
    dimensions_param: str = "dimensions"  # and of that of the dimensions


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
    truncate: bool = True  # False: text over the context length is an error
    param: str = "documents"  # the client's name of the field that holds them


@dataclass(frozen=True, slots=True)
class Tokenize:
    """Tokenize texts, as they are tokenized to be embedded."""

    model: str | None
    texts: Sequence[TextItem]


@dataclass(frozen=True, slots=True)
class Decode:
    """Turn token ids into texts."""

    model: str | None
    ids: Sequence[Sequence[int]]
    skip_special: bool = True
