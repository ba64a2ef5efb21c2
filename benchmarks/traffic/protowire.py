"""Protocol Buffers on the wire, as far as the benchmarks write and read them.

Requests are written once and sent many times, so that the client costs little; and the service is
a black box, of which no code is imported. Fields are numbered as in `clip.proto` and `onnx.proto`.
"""

from collections.abc import Iterator, Sequence

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def varint(number: int) -> bytes:
    """A number of at least 0, seven bits to the byte."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def field(number: int, value: int | str | bytes) -> bytes:
    """One field: an integer, a string, or the bytes of a nested message."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | BYTES) + varint(len(data)) + data


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Several fields, one after the other."""
    return b"".join(field(number, value) for number, value in fields)


def read(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message.

    Raises:
        ValueError: The bytes are no message.
    """
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == VARINT:
            number, at = _read_varint(data, at)
            yield key >> 3, number
            continue
        if kind == BYTES:
            length, at = _read_varint(data, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + length > len(data):
            raise ValueError("the message ends within a field")
        yield key >> 3, data[at : at + length]
        at += length


def item(content: str | bytes) -> bytes:
    """An `Item`: a text, or the bytes of an encoded image."""
    return field(1 if isinstance(content, str) else 2, content)


def embed_request(model: str, contents: Sequence[str | bytes]) -> bytes:
    """An `EmbedRequest`."""
    return message((1, model), *((2, item(content)) for content in contents))


def stream_request(model: str, first: int, contents: Sequence[str | bytes]) -> bytes:
    """An `EmbedStreamRequest` with options; items are numbered from `first`."""
    items = [message((1, str(first + n)), (2, item(c))) for n, c in enumerate(contents)]
    options = [(1, field(1, model))] if first == 0 else []
    return message(*options, *((2, each) for each in items))


def vectors(embed_response: bytes) -> int:
    """How many embeddings an `EmbedResponse` holds; errors are left out."""
    results = [value for number, value in read(embed_response) if number == 1]
    return sum(_has(result, 1) for result in results)


def stream_vectors(response: bytes) -> tuple[int, int]:
    """How many embeddings, and how many errors, an `EmbedStreamResponse` holds."""
    results = [value for number, value in read(response) if number == 1]
    return sum(_has(result, 2) for result in results), sum(_has(result, 3) for result in results)


def _has(data: int | bytes, wanted: int) -> bool:
    return isinstance(data, bytes) and any(number == wanted for number, _ in read(data))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("the message ends within a number")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
