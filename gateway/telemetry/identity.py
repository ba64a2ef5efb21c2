"""The id of a request: the client's own where it is a plain one, so that both logs agree."""

import re
import uuid
from collections.abc import Iterable

HEADER = "x-request-id"

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(offered: Iterable[str]) -> str:
    """The first plain id among those that the client sent, or else a new one."""
    return next((each for each in offered if _PLAIN.fullmatch(each)), None) or uuid.uuid4().hex
