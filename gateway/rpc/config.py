"""Limits of the gRPC edge."""

from dataclasses import dataclass

from gateway.access.tls import Tls
from gateway.admission.limits import RequestLimits


@dataclass(frozen=True, slots=True)
class RpcConfig:
    """Limits of the gRPC edge."""

    max_message_bytes: int  # beyond, a call is refused
    inflight_bytes: int  # of messages that may be held at a time, those of HTTP included
    limits: RequestLimits
    timeout_s: float  # after which a call, or one batch of a stream, is given up
    stream_window_items: int = 512  # that were read and are not answered yet
    stream_window_bytes: int = 32 * 2**20  # of those items; one larger item is let in alone
    stream_batch_items: int = 32  # that go through the engine together; at most a request's
    stream_idle_s: float = 300.0  # after which a stream that sends nothing, or does not read, ends
    reuse_port: bool = False  # whether other processes may listen on the same port
    tls: Tls | None = None  # None: plain text
