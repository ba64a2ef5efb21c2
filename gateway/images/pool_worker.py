"""A process that decodes one image after another: `python -m gateway.images.pool_worker`.

Its standard input is a socket to the gateway, see `gateway/images/pool.py`. It ends when that is
closed. What a hostile image does to it stays here: it has no more memory than its limits call for,
writes no file and has none of the gateway's environment.
"""

import json
import resource
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gateway.errors import ImageError, RequestError, TooLarge
from gateway.images import heap
from gateway.images.preprocess import Decode, DecodeOptions, Decoder, ImageLimits
from gateway.models.manifest import Preprocessing

REQUEST, ANSWER = struct.Struct(">II"), struct.Struct(">BI")
PIXELS, ERRORS = 0, {1: ImageError, 2: TooLarge}  # what an answer is; or else READY
READY = 255

Make = Callable[[ImageLimits, DecodeOptions], Decode]


class Closed(Exception):
    """The other side is gone."""


def received(line: socket.socket, size: int) -> bytes:
    """Exactly so many bytes.

    Raises:
        Closed: The other side is gone.
        TimeoutError: They did not come within the socket's time.
    """
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = line.recv_into(view)
        if not count:
            raise Closed
        view = view[count:]
    return bytes(buffer)


def main(make: Make = Decoder) -> int:
    """Answers until the gateway closes the line."""
    heap.pin()
    with socket.socket(fileno=sys.stdin.fileno()) as line:
        try:
            [size] = struct.unpack(">I", received(line, 4))
            given = json.loads(received(line, size))
            limits = ImageLimits(**given["limits"])
            decode = make(limits, DecodeOptions(**given["options"]))
            _confine(limits)
            line.sendall(ANSWER.pack(READY, 0))
            while True:
                _answer(line, decode)
        except (Closed, ConnectionError):
            return 0


def _answer(line: socket.socket, decode: Decode) -> None:
    sizes = REQUEST.unpack(received(line, REQUEST.size))
    rules, data = (received(line, size) for size in sizes)
    try:
        pixels = decode(data, Preprocessing.model_validate_json(rules))
        kind, body = PIXELS, np.ascontiguousarray(pixels).tobytes()
    except RequestError as error:
        kind = 2 if isinstance(error, TooLarge) else 1
        body = error.message.encode("utf-8", "replace")
    line.sendall(ANSWER.pack(kind, len(body)))
    line.sendall(body)


def _confine(limits: ImageLimits) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    # Twice, since what decoders hold is an estimate, and freed memory is not always reused.
    most = pages * resource.getpagesize() + 2 * limits.max_decode_bytes + 4 * limits.max_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    import warnings

    warnings.filterwarnings("ignore", module="PIL")
    sys.exit(main())
