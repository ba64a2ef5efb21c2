"""The process that decodes images for the pool: `python -m gateway.images.pool_worker`.

Its standard input is a connection to the gateway, see `gateway/images/pool.py`; it ends when the
gateway closes it. It confines the harm of a hostile image: the process has no more memory than its
limits require, writes no file and has none of the gateway's environment.

The gateway sends one pickle with the limits and the options, then two messages for each image: a
pickle of the model's preprocessing, and the image. The process answers each with two messages,
its kind and its content. Both are plain bytes, because unpickling runs any code of the sender.
"""

import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from gateway.errors import ImageError, RequestError, TooLarge
from gateway.images import heap
from gateway.images.preprocess import Decode, DecodeOptions, Decoder, ImageLimits

READY, PIXELS = b"ready", b"pixels"
ERRORS = {b"image": ImageError, b"large": TooLarge}

Make = Callable[[ImageLimits, DecodeOptions], Decode]


def main(make: Make = Decoder) -> int:
    """Answer until the gateway closes the connection."""
    heap.pin()
    with Connection(sys.stdin.fileno()) as gateway:
        try:
            limits, options = gateway.recv()
            decode = make(limits, options)
            _confine(limits)
            _send(gateway, READY, b"")
            while True:
                _answer(gateway, decode)
        except (EOFError, ConnectionError):
            return 0


def _answer(gateway: Connection, decode: Decode) -> None:
    rules, data = gateway.recv(), gateway.recv_bytes()
    try:
        pixels = decode(data, rules)
    except RequestError as error:
        kind = b"large" if isinstance(error, TooLarge) else b"image"
        _send(gateway, kind, error.message.encode("utf-8", "replace"))
    else:
        _send(gateway, PIXELS, np.ascontiguousarray(pixels).tobytes())


def _send(gateway: Connection, kind: bytes, content: bytes) -> None:
    gateway.send_bytes(kind)
    gateway.send_bytes(content)


def _confine(limits: ImageLimits) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    # Twice, since what decoders hold is an estimate, and freed memory is not always reused.
    most = pages * resource.getpagesize() + 2 * limits.alone_bytes + 4 * limits.max_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    import logging
    import warnings

    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    sys.exit(main())
