"""What is known of a request, from its id to its end, for metrics and the log."""

import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.models.values import Timings

HEADER = "x-request-id"

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(offered: Iterable[str]) -> str:
    """The first valid id that the client sent, or a new one."""
    return next((each for each in offered if _PLAIN.fullmatch(each)), None) or uuid.uuid4().hex


@dataclass(slots=True)
class Record(Timings):
    """One request, from its arrival to its answer."""

    protocol: str = ""  # rest or grpc
    method: str = ""  # of HTTP
    operation: str = ""  # the route or method; empty where none matched
    quiet: bool = False  # such as a probe: logged at `debug` only, and never traced
    request_id: str = ""
    trace_id: str = ""  # 32 hexadecimal digits, where there are traces
    key: str = ""  # the name of the API key, never the key
    spent: int = 0  # items charged to the key's quota
    code: str = ""  # HTTP status or the name of the gRPC status
    error: str = ""  # the error's code, such as invalid_image
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0  # from arrival to answer

    @property
    def modality(self) -> str:
        """What was embedded: text, image or mixed; empty where nothing was."""
        if self.texts and self.images:
            return "mixed"
        return "text" if self.texts else "image" if self.images else ""

    @property
    def server_timing(self) -> str:
        """Milliseconds by stage, as the header `server-timing` has them."""
        return ", ".join(
            f"{name};dur={seconds * 1000:.2f}" for name, seconds in self.stages.items()
        )

    def end(self, code: str) -> None:
        """Records the status and the duration."""
        self.code = code
        self.seconds = time.perf_counter() - self.started
