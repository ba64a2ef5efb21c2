"""The gRPC server: ClipService, health and reflection on one port, with its limits and its TLS."""

import asyncio

import grpc

from gateway.access.access import Access
from gateway.access.tls import Certificate, Tls
from gateway.admission.permits import Admission
from gateway.operations.readiness import Readiness
from gateway.pipeline.engine import Engine
from gateway.rpc import service
from gateway.rpc.calls import Calls, Guard
from gateway.rpc.config import RpcConfig
from gateway.rpc.health import Health, health_and_reflection
from gateway.rpc.incoming import WINDOW_BYTES, Incoming
from gateway.telemetry.record import Observer

MAX_CONNECTIONS = 4_096  # of one process

# Over our own limit, so that nearly every refusal names the setting.
_SLACK_BYTES = 2**20

_OPTIONS = {
    "grpc.compression_enabled_algorithms_bitset": 1,  # none: a small message could become any size
    # A window that grows with the network's speed would let each call that nobody reads hold up to
    # 128 MiB; for a message that is read it opens by 1 MiB at a time all the same.
    "grpc.http2.bdp_probe": 0,
    "grpc.http2.lookahead_bytes": WINDOW_BYTES,
    "grpc.max_allowed_incoming_connections": MAX_CONNECTIONS,
    "grpc.max_connection_idle_ms": 300_000,  # without a call; clients connect again by themselves
    "grpc.server_handshake_timeout_ms": 10_000,
    "grpc.max_send_message_length": -1,
    "grpc.max_concurrent_streams": 256,  # of one connection; more wait at the client
    "grpc.keepalive_time_ms": 30_000,  # a client that died holds its permit no longer than this
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.min_ping_interval_without_data_ms": 5_000,  # of clients' own keepalive
    "grpc.http2.min_recv_ping_interval_without_data_ms": 5_000,
}


class RpcServer:
    """Serves an engine over gRPC. Made inside the running event loop."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        readiness: Readiness,
        observer: Observer,
        config: RpcConfig,
        access: Access | None = None,
    ) -> None:
        self._draining = asyncio.Event()
        self._tls = config.tls
        limit = config.max_message_bytes
        options = _OPTIONS | {
            "grpc.max_receive_message_length": limit + limit // 4 + _SLACK_BYTES,
            "grpc.so_reuseport": int(config.reuse_port),
        }
        incoming = Incoming(admission, config.inflight_bytes)
        calls = Calls(admission, observer, config, incoming, access)
        guards = [Guard(service.NAME, access, calls)] if access else []
        self._server = grpc.aio.server(interceptors=guards, options=tuple(options.items()))
        clip = service.ClipService(engine, calls, self._draining)
        self._server.add_generic_rpc_handlers((clip.handlers(),))
        checked = Health((service.NAME,), readiness, self._draining)
        self._server.add_generic_rpc_handlers(
            health_and_reflection(checked, incoming, service.NAME)
        )

    async def start(self, host: str, port: int) -> int:
        """Begin to listen; return the port, which for port 0 is a free one.

        Raises:
            OSError: The address cannot be listened on.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, server_credentials(self._tls))
        except RuntimeError as error:
            await self._server.stop(None)
            raise OSError(f"gRPC cannot listen on {address}; is the port taken?") from error
        await self._server.start()
        return int(bound)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end those that run: streams early, all after `grace_s`."""
        self._draining.set()
        await self._server.stop(grace_s)


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials that follow `tls`; connections that are open keep what they began with."""
    given = tls.certificate

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        # gRPC asks in a thread of its own before every handshake; None: what it has is right.
        nonlocal given
        now = tls.certificate
        if now is given:
            return None
        given = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given), renewed, require_client_authentication=given.client_ca is not None
    )


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificate.key, certificate.chain)], certificate.client_ca
    )
