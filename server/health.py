"""Asks a server over HTTP whether it is ready, and Triton why a model is not."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

TIMEOUT = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model of Triton's repository index."""

    name: str
    state: str  # READY, LOADING, UNLOADING, UNAVAILABLE; empty where it was never loaded
    reason: str  # why it is UNAVAILABLE


def is_ready(address: str, path: str) -> bool:
    """Whether the server at ``address`` answers a GET of ``path`` with 200."""
    try:
        status, _ = _request(address, "GET", path)
    except (OSError, http.client.HTTPException):
        return False
    return status == http.client.OK


def model_states(address: str) -> tuple[ModelState, ...]:
    """Triton's repository index.

    Raises:
        OSError: the server cannot be reached.
    """
    _, body = _request(address, "POST", "/v2/repository/index")
    index: list[dict[str, Any]] = json.loads(body)
    return tuple(
        ModelState(entry["name"], entry.get("state", ""), entry.get("reason", ""))
        for entry in index
    )


def readable_reason(reason: str) -> str:
    """A load failure without the Python traceback that the stub adds to its message."""
    return reason.split("\n\nAt:\n")[0].strip()


def _request(address: str, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
