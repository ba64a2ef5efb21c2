"""Checks callers' arguments and converts them to messages; errors name the argument's place."""

from collections.abc import Callable, Collection, Iterator, Sequence, Sized
from pathlib import Path

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton import convert
from openclip_triton.errors import ClientError
from openclip_triton.values import C, Content, Image, K

Check = Callable[[object, str], None]  # content, its place; raises TypeError


def has_files(*given: object) -> bool:
    """Whether an argument is a file, or a list with one; reading it takes time."""
    return any(
        isinstance(one, Path)
        for each in given
        for one in (
            (each,) if isinstance(each, Content) or not isinstance(each, Collection) else each
        )
    )


def check_text(content: object, place: str) -> None:
    """Raise a TypeError unless the content is a text."""
    if not isinstance(content, str):
        raise TypeError(f"{place}: a text is a str, not {type(content).__name__}")


def check_image(content: object, place: str) -> None:
    """Raise a TypeError unless the content is an image; a str is not, even if it is a path."""
    if isinstance(content, str):
        raise TypeError(f"{place}: a str is a text, not an image; a path? wrap it in pathlib.Path")
    if not isinstance(content, Image):
        kind = type(content).__name__
        raise TypeError(f"{place}: an image is bytes or a pathlib.Path, not {kind}")


def check_content(content: object, place: str) -> None:
    """Raise a TypeError unless the content is a text or an image."""
    if not _is_content(content):
        kind = type(content).__name__
        raise TypeError(f"{place}: an item is a str, bytes or pathlib.Path, not {kind}")


def pair(taken: tuple[K, Content]) -> tuple[K, Content]:
    """Check a pair of an id and an item of a stream.

    Raises:
        TypeError: It is not such a pair.
    """
    if _is_content(taken):  # a str of two characters would unpack as a pair
        kind = type(taken).__name__
        raise TypeError(
            f"a stream takes pairs of an id and an item, not {kind}; use enumerate(...)"
        )
    key, content = taken
    if not _is_content(content):
        check_content(content, f"item {key!r:.100}")
    # The caller may refill a buffer once the next item is requested.
    return key, bytes(content) if isinstance(content, bytearray | memoryview) else content


def _is_content(given: object) -> bool:
    return isinstance(given, Content)


def each(given: Sequence[C], name: str, check: Check) -> Iterator[C]:
    """Yield the items of an argument, each checked.

    Args:
        given: The argument.
        name: Its name, for errors.
        check: Called with each item and its place, such as `images[3]`.

    Raises:
        TypeError: It is a single item, not a sequence, or `check` refuses an item.
    """
    if isinstance(given, Content):
        kind = type(given).__name__
        raise TypeError(
            f"{name}: give a list, not a single {kind}; put it in brackets: {name}=[...]"
        )
    if not isinstance(given, Sized):
        raise TypeError(f"{name}: give a list, not {type(given).__name__}; use list(...)")
    for index, content in enumerate(given):
        check(content, f"{name}[{index}]")
        yield content


def texts(given: Sequence[str], name: str) -> list[str]:
    """List the texts of an argument, each checked."""
    return list(each(given, name, check_text))


def messages(given: Sequence[Content], name: str, check: Check) -> list[pb.Item]:
    """Convert an argument's items to messages; reads files.

    Raises:
        TypeError: As for `each`.
        UnreadableFile: A file cannot be read.
    """
    found = enumerate(each(given, name, check))
    return [message(content, f"{name}[{index}]") for index, content in found]


def message(content: Content, place: str) -> pb.Item:
    """Convert one item to a message; reads its file.

    Raises:
        UnreadableFile: The file cannot be read.
    """
    try:
        return convert.to_item(content)
    except ClientError as error:
        error.locate(place)
        raise
