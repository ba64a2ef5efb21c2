"""gRPC's credentials: the certificate that is served now, for each new connection."""

import grpc

from gateway.access.tls import Certificate, Tls


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
