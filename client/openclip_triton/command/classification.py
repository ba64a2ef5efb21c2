"""Classifies many images, one request each, several at a time."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openclip_triton.bulk.listing import Entry, Listing
from openclip_triton.errors import ClientError, InvalidRequest, UnreadableFile

if TYPE_CHECKING:
    from openclip_triton.values import Prediction

REQUESTS = 8

Ask = Callable[[list[Path]], "list[list[Prediction]]"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The best labels of an image, best first, or the reason that it failed."""

    path: str
    predictions: "tuple[Prediction, ...]"
    problem: str = ""


def classify_each(ask: Ask, listing: Listing) -> Iterator[Answer]:
    """Yield an answer for each image, in order; a bad image does not stop the others.

    Args:
        ask: Classifies images, in any thread.
        listing: The images.

    Raises:
        ClientError: The labels or options are wrong, or the service cannot be reached.
    """
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(REQUESTS) as pool:
        try:
            for entry in listing.entries():
                waiting.append(pool.submit(_classify, ask, entry))
                if len(waiting) >= 2 * REQUESTS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _classify(ask: Ask, entry: Entry) -> Answer:
    path = entry.path
    if entry.problem:
        return Answer(path, (), entry.problem)
    try:
        [predictions] = ask([Path(path)])
    except UnreadableFile as error:
        return Answer(path, (), _reason(error, path))
    except InvalidRequest as error:
        if not (error.param or "").startswith("image"):
            raise
        return Answer(path, (), _reason(error, path))
    return Answer(path, tuple(predictions))


def _reason(error: ClientError, path: str) -> str:
    """Drop the image's place and path from the message: the output shows the path first."""
    return error.message.removeprefix(f"{error.param}: ").removeprefix(f"{path}: ")
