"""Makes downloads fail within seconds without network."""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError

from huggingface_hub import constants

PROBE_SECONDS = 5.0
STALL_SECONDS = 20.0


@contextmanager
def quick_to_fail() -> Iterator[None]:
    """Make downloads from the Hugging Face hub fail at once if it cannot be reached.

    `huggingface_hub` retries each file for about 25 seconds, and OpenCLIP requests several in
    turn. So this probes the hub once. If the hub does not answer, it turns on the library's
    offline mode, which finds only cached files.
    """
    offline, timeout = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)  # OpenCLIP's plain URL downloads have no timeout
    constants.HF_HUB_OFFLINE = offline or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout)


def _reachable(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310  the library's own
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):  # noqa: S310  as above
            return True
    except HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False
