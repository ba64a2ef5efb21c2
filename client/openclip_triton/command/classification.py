"""Classifies many images, one request each, several at a time."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from openclip_triton.bulk.listing import Listing
from openclip_triton.client import Client
from openclip_triton.errors import ClientError, InvalidRequest, UnreadableFile
from openclip_triton.values import Prediction

REQUESTS = 8


@dataclass(frozen=True, slots=True)
class Question:
    """Labels to choose from, and the number to show."""

    labels: tuple[str, ...]
    label_set: str
    templates: tuple[str, ...]
    template_set: str
    top_k: int
    model: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The best labels of an image, best first, or the reason that it failed."""

    path: str
    predictions: tuple[Prediction, ...]
    problem: str = ""


def classify_each(client: Client, listing: Listing, question: Question) -> Iterator[Answer]:
    """Yield an answer for each image, in order; a bad image fails alone.

    Raises:
        ClientError: The question itself is wrong, or the service cannot be reached.
    """
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(REQUESTS) as pool:
        try:
            for entry in listing.entries():
                waiting.append(pool.submit(_classify, client, entry.path, entry.problem, question))
                if len(waiting) >= 2 * REQUESTS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _classify(client: Client, path: str, problem: str, question: Question) -> Answer:
    if problem:
        return Answer(path, (), problem)
    try:
        [predictions] = client.classify(
            [Path(path)],
            question.labels,
            label_set=question.label_set,
            templates=question.templates,
            template_set=question.template_set,
            top_k=question.top_k,
            model=question.model,
        )
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
