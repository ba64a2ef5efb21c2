"""Limits of the gRPC edge."""

from dataclasses import dataclass

from gateway.access.tls import Tls
from gateway.admission.limits import RequestLimits


@dataclass(frozen=True, slots=True)
class RpcConfig:
    """Limits of the gRPC edge.

    Attributes:
        max_message_bytes: Bytes of one message; beyond, a call is refused.
        inflight_bytes: Bytes of messages that may be held at a time, those of HTTP included.
        limits: How much one request may ask for.
        timeout_s: Seconds after which a call, or one batch of a stream, is given up.
        stream_window_items: Items of a stream that were read and are not answered yet.
        stream_window_bytes: Bytes that those items hold; one larger item is let in alone.
        stream_idle_s: Seconds after which a stream that sends nothing, or does not read, is ended.
        stream_batch_items: Items of a stream that go through the engine together; no more than
            the engine takes in a request.
        reuse_port: Whether other processes may listen on the same port.
        tls: The certificate to serve with; None serves plain text.
    """

    max_message_bytes: int
    inflight_bytes: int
    limits: RequestLimits
    timeout_s: float
    stream_window_items: int = 512
    stream_window_bytes: int = 32 * 2**20
    stream_batch_items: int = 32
    stream_idle_s: float = 300.0
    reuse_port: bool = False
    tls: Tls | None = None
