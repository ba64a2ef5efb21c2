"""What callers give: checked, and made into messages. What is wrong is named by its place."""

from collections.abc import Callable, Iterator, Sequence, Sized
from pathlib import Path

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton import convert
from openclip_triton.errors import ClientError
from openclip_triton.values import C, Content

Check = Callable[[object, str], None]  # content, its place; raises TypeError

_IMAGE = bytes | bytearray | memoryview | Path
_ITEM = str | _IMAGE


def check_text(content: object, place: str) -> None:
    """Refuses what is no text.

    Raises:
        TypeError: It is no str.
    """
    if not isinstance(content, str):
        raise TypeError(f"{place}: a text is a str, not {type(content).__name__}")


def check_image(content: object, place: str) -> None:
    """Refuses what is no image; a str would be embedded as a text, even if it is a path.

    Raises:
        TypeError: It is neither bytes nor a Path.
    """
    if isinstance(content, str):
        raise TypeError(f"{place}: a str is a text, not an image; a path? wrap it in pathlib.Path")
    if not isinstance(content, _IMAGE):
        kind = type(content).__name__
        raise TypeError(f"{place}: an image is bytes or a pathlib.Path, not {kind}")


def check_content(content: object, place: str) -> None:
    """Refuses what is neither a text nor an image.

    Raises:
        TypeError: It is no str, bytes or Path.
    """
    if not isinstance(content, _ITEM):
        kind = type(content).__name__
        raise TypeError(f"{place}: an item is a str, bytes or pathlib.Path, not {kind}")


def check_pair(taken: object) -> None:
    """Refuses a bare item where a pair is wanted: a str of two characters would pass for one.

    Raises:
        TypeError: It is an item.
    """
    if isinstance(taken, _ITEM):
        kind = type(taken).__name__
        raise TypeError(
            f"a stream takes pairs of an id and an item, not {kind}; use enumerate(...)"
        )


def each(given: Sequence[C], name: str, check: Check) -> Iterator[C]:
    """What an argument holds, one by one, each of it checked.

    Args:
        given: The argument.
        name: What it is called.
        check: Called with each, and its place, such as `images[3]`.

    Raises:
        TypeError: It is a single one, not a sequence, or one in it is not what `check` wants.
    """
    if isinstance(given, _ITEM):
        kind = type(given).__name__
        raise TypeError(
            f"{name}: a list is wanted, not a single {kind}; put it in brackets: {name}=[...]"
        )
    if not isinstance(given, Sized):
        raise TypeError(f"{name}: a list is wanted, not {type(given).__name__}; use list(...)")
    for index, content in enumerate(given):
        check(content, f"{name}[{index}]")
        yield content


def texts(given: Sequence[str], name: str) -> list[str]:
    """The texts of an argument.

    Raises:
        TypeError: As for `each`.
    """
    return list(each(given, name, check_text))


def messages(given: Sequence[Content], name: str, check: Check) -> list[pb.Item]:
    """The messages of an argument's items; files are read here.

    Raises:
        TypeError: As for `each`.
        UnreadableFile: A file cannot be read.
    """
    found = enumerate(each(given, name, check))
    return [message(content, f"{name}[{index}]") for index, content in found]


def message(content: Content, place: str) -> pb.Item:
    """The message of one item; a file is read here.

    Raises:
        TypeError: It is no item.
        UnreadableFile: The file cannot be read.
    """
    check_content(content, place)
    try:
        return convert.to_item(content)
    except ClientError as error:
        error.locate(place)
        raise
