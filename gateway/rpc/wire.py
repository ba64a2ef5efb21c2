"""Counts the fields of a message, and the bytes of its strings, before it is parsed.

A parser makes an object of every nested message and holds the interpreter's lock meanwhile: 60 MB
of empty items would stop the whole process for seconds and take gigabytes. A walk over the bytes
that stops at a limit does neither. It looks only at where fields begin, not at what is in them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeAlias

Descriptor: TypeAlias = Any  # of which class depends on protobuf's backend
_VARINT, _FIXED64, _DELIMITED, _GROUP_BEGINS, _GROUP_ENDS, _FIXED32 = range(6)
_SIZES = {_FIXED64: 8, _FIXED32: 4, _GROUP_BEGINS: 0, _GROUP_ENDS: 0}
_VARINT_BYTES = 10


def count_fields(data: bytes, kind: Descriptor, most: int) -> tuple[int, Counter[int]]:
    """How many fields a message holds, those of the messages in it included.

    Never fewer than a parser of the bytes comes upon, unless there are more than `most`, beyond
    which counting stops. What is in a group, which no message here has, counts as if it were none.

    Args:
        data: The message.
        kind: What it should be.
        most: How far to count.

    Returns:
        The number of all fields, and how often each number stands in the message itself.
    """
    own, others = Counter[int](), Counter[int]()
    count, numbers = 0, own
    waiting = [(0, len(data), kind)]
    while waiting:
        begin, end, within = waiting.pop()
        nested = _messages(within)
        for number, start, stop in _fields(data, begin, end):
            count += 1
            numbers[number] += 1
            if count > most:
                return count, own
            if stop > start and number in nested:
                waiting.append((start, stop, nested[number]))
        numbers = others
    return count, own


def string_bytes(data: bytes, kind: Descriptor, most: int) -> tuple[int, int, int]:
    """Bytes in strings, in those of them that are not all ASCII, and in the longest of these.

    Args:
        data: The message.
        kind: What it should be.
        most: Fields to look at; where there are more, all of it counts as such strings.
    """
    count = strings = wide = longest = 0
    waiting = [(0, len(data), kind)]
    while waiting:
        begin, end, within = waiting.pop()
        nested, texts = _messages(within), _strings(within)
        for number, start, stop in _fields(data, begin, end):
            count += 1
            if count > most:
                return len(data), len(data), longest
            if number in nested and stop > start:
                waiting.append((start, stop, nested[number]))
            elif number in texts:
                strings += stop - start
                if not data[start:stop].isascii():
                    wide += stop - start
                    longest = max(longest, stop - start)
    return strings, wide, longest


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
    """A number of seven bits a byte, and where it ends.

    Raises:
        LookupError: It does not end.
    """
    value = 0
    for place in range(_VARINT_BYTES):
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise LookupError("a varint of more than ten bytes")
