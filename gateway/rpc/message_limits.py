"""How many fields a message may hold, counted before it is parsed.

A parser makes an object of every nested message and holds the interpreter's lock meanwhile: 60 MB
of empty items would stop the whole process for seconds and take gigabytes. A walk over the bytes
that stops at a limit does neither. It looks only at where fields begin, not at what is in them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

from google.protobuf.message import Message

from gateway.admission.limits import RequestLimits
from gateway.errors import TooLarge
from openclip_api.v1 import clip_pb2

Descriptor: TypeAlias = Any  # of which class depends on protobuf's backend
_VARINT, _FIXED64, _DELIMITED, _GROUP_BEGINS, _GROUP_ENDS, _FIXED32 = range(6)
_SIZES = {_FIXED64: 8, _FIXED32: 4, _GROUP_BEGINS: 0, _GROUP_ENDS: 0}
_VARINT_BYTES = 10


@dataclass(slots=True)
class Contents:
    """What was found in a message and the messages in it."""

    # Never fewer than a parser comes upon, unless counting stopped. What is in a group, which no
    # message here has, counts as if it were none.
    fields: int = 0
    own: Counter[int] = field(default_factory=Counter)  # numbers that stand in the message itself
    strings: int = 0  # bytes in strings
    wide: int = 0  # bytes in those of them that are not all ASCII
    longest: int = 0  # bytes in the longest of these


def contents(data: bytes, kind: Descriptor, most: int) -> Contents:
    """What a message of a kind holds; counting stops beyond `most` fields."""
    found = Contents()
    numbers = found.own
    waiting = [(0, len(data), kind)]
    while waiting:
        begin, end, within = waiting.pop()
        nested, texts = _messages(within), _strings(within)
        for number, start, stop in _fields(data, begin, end):
            found.fields += 1
            numbers[number] += 1
            if found.fields > most:
                return found
            if number in nested and stop > start:
                waiting.append((start, stop, nested[number]))
            elif number in texts:
                size = stop - start
                found.strings += size
                if not data[start:stop].isascii():
                    found.wide += size
                    found.longest = max(found.longest, size)
        numbers = Counter()
    return found


@cache
def _strings(kind: Descriptor) -> frozenset[int]:
    return frozenset(each.number for each in kind.fields if each.type == each.TYPE_STRING)


@cache
def _messages(kind: Descriptor) -> Mapping[int, Descriptor]:
    return {each.number: each.message_type for each in kind.fields if each.message_type}


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number of each field, and where bytes that may be a message begin and end in it.

    Bytes that are no message end where that shows: a parser comes no further either.
    """
    try:
        while at < end:
            tag, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at)  # mostly short
            start = stop = at
            if tag & 7 == _DELIMITED:
                size, start = (data[at], at + 1) if data[at] < 128 else _varint(data, at)
                at = start + size
                stop = min(at, end)
            elif tag & 7 == _VARINT:
                at = at + 1 if data[at] < 128 else _varint(data, at)[1]
            else:
                at += _SIZES[tag & 7]
            yield tag >> 3, start, stop
    except LookupError:
        return


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends. Raises LookupError: it does not end."""
    value = 0
    for place in range(_VARINT_BYTES):
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise LookupError("a varint of more than ten bytes")


STREAM_ITEMS = 5_000  # in one message of a stream; a stream may have any number of messages
_ITEM_FIELDS = 4  # of a stream's item, which is the largest: itself, its id, and an item's two
# How many times its bytes a message takes at worst until it is answered. Measured.
_BYTES = 3  # itself, parsed, and its images
_STRINGS = 2  # times more for strings: as such, and with the white space of base64 taken out
_WIDE = 3  # and where they are not all ASCII: one emoji makes each character four bytes
_CHARACTER_BYTES = 4  # at most
_LONG_BYTES = 2**20  # of a string whose memory matters
_WALKED_BYTES = 2**16  # what is smaller may not be walked: all of it counts as such strings
_OTHER_FIELDS = 1_000  # those of the message, and such as are not known here


class Bounds:
    """Refuses messages that hold far more than any within the limits."""

    def __init__(self, limits: RequestLimits) -> None:
        """Take the limits. They hold exactly later on; this is what it costs to come so far."""
        self._characters = limits.max_text_characters
        items = _ITEM_FIELDS * limits.max_items + _OTHER_FIELDS
        texts = limits.max_labels + limits.max_prompts
        of_items = f"the limit (GATEWAY_MAX_ITEMS) is {limits.max_items:,} items"
        of_texts = "GATEWAY_MAX_ITEMS, GATEWAY_MAX_LABELS and GATEWAY_MAX_PROMPTS allow less"
        self._most: dict[type[Message], tuple[int, str]] = {
            clip_pb2.EmbedRequest: (items, of_items),
            clip_pb2.ClassifyRequest: (items + texts, of_texts),
            clip_pb2.SimilarityRequest: (items, of_items),
            clip_pb2.RerankRequest: (items, of_items),
            clip_pb2.EmbedStreamRequest: (
                _ITEM_FIELDS * STREAM_ITEMS + _OTHER_FIELDS,
                f"send no more than {STREAM_ITEMS:,} items in one message of a stream",
            ),
            clip_pb2.ListModelsRequest: (_OTHER_FIELDS, "it takes none"),
        }

    def takes(self, schema: type[Message], data: bytes) -> int:
        """How many bytes a message takes at worst until it is answered.

        It takes no more time than to count the permitted fields.

        Raises:
            TooLarge: It has too many fields, and `param` names what most of them are. Or a string
                is longer than a text may be, and no base64: it could become four times as large.
        """
        most, reason = self._most[schema]
        if len(data) <= min(most, _WALKED_BYTES):
            return (_BYTES + _STRINGS + _WIDE) * len(data)
        found = contents(data, schema.DESCRIPTOR, most)
        if found.fields > most:
            frequent = schema.DESCRIPTOR.fields_by_number.get(found.own.most_common(1)[0][0])
            param = frequent.name if frequent else None
            where = param or "the message"
            raise TooLarge(f"{where}: more than {most:,} fields; {reason}", param=param)
        if found.longest > max(_LONG_BYTES, _CHARACTER_BYTES * self._characters):
            raise TooLarge(
                f"a text of {found.longest:,} bytes; the limit (GATEWAY_MAX_TEXT_CHARACTERS) "
                f"is {self._characters:,} characters"
            )
        return _BYTES * len(data) + _STRINGS * found.strings + _WIDE * found.wide
