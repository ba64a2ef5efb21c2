"""What is known of a request once it is over, for metrics and the log."""

import time
from dataclasses import dataclass, field

from gateway.models.values import Timings


@dataclass(slots=True)
class Record(Timings):
    """One request, from its arrival to its answer."""

    protocol: str = ""  # rest or grpc
    method: str = ""  # of HTTP
    operation: str = ""  # the route or method; empty where none matched
    request_id: str = ""
    trace_id: str = ""  # 32 hexadecimal digits, where there are traces
    key: str = ""  # the name of the API key, never the key
    spent: int = 0  # items taken from the key's quota
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

    def end(self, code: str) -> None:
        """Takes the time and the status."""
        self.code = code
        self.seconds = time.perf_counter() - self.started
