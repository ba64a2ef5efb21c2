"""TLS for both protocols: the certificate, clients' certificates, and what is wrong with either."""

import re
import ssl
import subprocess
from pathlib import Path

import grpc
import httpx
import pytest

from gateway.tls import TlsError, read_certificate
from server.launcher import TritonServer
from tests.conftest import GatewayFactory, Outside
from tests.gateway.certificates import Authority, Pair
from tests.gateway.keyed import call


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def served(authority: Authority) -> Pair:
    return authority.issue("127.0.0.1")


def credentials(authority: Authority, own: Pair | None = None) -> grpc.ChannelCredentials:
    root = authority.certificate.read_bytes()
    if own is None:
        return grpc.ssl_channel_credentials(root)
    return grpc.ssl_channel_credentials(root, own.key.read_bytes(), own.certificate.read_bytes())


def status(address: str, given: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """How a call over such a channel ends."""
    made = grpc.secure_channel(address, given) if given else grpc.insecure_channel(address)
    with made as channel:
        try:
            call(channel, None)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK


@pytest.mark.parametrize("workers", [1, 2])
def test_both_protocols_are_encrypted(
    triton: TritonServer,
    start_gateway: GatewayFactory,
    authority: Authority,
    served: Pair,
    workers: int,
) -> None:
    trust = ssl.create_default_context(cafile=authority.certificate)
    with start_gateway(
        Outside(tls=trust),
        triton_address=triton.addresses.grpc,
        tls_cert=served.certificate,
        tls_key=served.key,
        workers=workers,
    ) as client:
        answer = client.post("/v1/embeddings", json={"input": "a red circle"})
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert status(client.grpc_address, credentials(authority)) == grpc.StatusCode.OK

        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{client.base_url}/livez")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{client.base_url}/livez".replace("https", "http"))
        for untrusting in (None, grpc.ssl_channel_credentials()):
            assert status(client.grpc_address, untrusting) == grpc.StatusCode.UNAVAILABLE
        for address in (f"127.0.0.1:{client.base_url.port}", client.grpc_address):
            assert handshake(address, "-tls1_2")
            assert not handshake(address, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")


def handshake(address: str, *options: str) -> bool:
    """Whether one of such a kind succeeds."""
    command = ["openssl", "s_client", "-connect", address, "-alpn", "h2,http/1.1", *options]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    return ran.returncode == 0


def test_clients_must_show_a_certificate(
    triton: TritonServer, start_gateway: GatewayFactory, authority: Authority, served: Pair,
    tmp_path: Path,
) -> None:  # fmt: skip
    own = authority.issue("mobile-app", server=False)
    stranger = Authority(tmp_path, "stranger").issue("intruder", server=False)
    trust, strange = (ssl.create_default_context(cafile=authority.certificate) for _ in range(2))
    trust.load_cert_chain(own.certificate, own.key)
    strange.load_cert_chain(stranger.certificate, stranger.key)
    with start_gateway(
        Outside(tls=trust),
        triton_address=triton.addresses.grpc,
        tls_cert=served.certificate,
        tls_key=served.key,
        tls_client_ca=authority.certificate,
    ) as client:
        assert client.get("/v1/models").status_code == 200
        assert status(client.grpc_address, credentials(authority, own)) == grpc.StatusCode.OK
        without = ssl.create_default_context(cafile=authority.certificate)
        for refused in (without, strange):
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{client.base_url}/livez", verify=refused)
        for given in (credentials(authority), credentials(authority, stranger)):
            assert status(client.grpc_address, given) == grpc.StatusCode.UNAVAILABLE


def test_nothing_named_is_plain_text() -> None:
    assert read_certificate(None, None, None) is None


def test_the_key_is_not_shown(served: Pair) -> None:
    read = read_certificate(served.certificate, served.key, None)
    assert read is not None
    assert "PRIVATE KEY" in read.key.decode()
    assert "PRIVATE KEY" not in repr(read)


def test_what_is_wrong_with_a_certificate_is_told(
    authority: Authority, served: Pair, tmp_path: Path
) -> None:
    other = authority.issue("other.test").key
    missing, junk = tmp_path / "missing.pem", tmp_path / "junk.pem"
    junk.write_text("nothing of use")
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_text(
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
        "DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAA\n"
        "-----END RSA PRIVATE KEY-----\n"
    )
    own, key = served.certificate, served.key
    for given, words in (
        ((own, None, None), "GATEWAY_TLS_CERT is set, so GATEWAY_TLS_KEY must be"),
        ((None, key, None), "GATEWAY_TLS_KEY is set, so GATEWAY_TLS_CERT must be"),
        ((None, None, own), "GATEWAY_TLS_CLIENT_CA is set"),
        ((missing, key, None), "GATEWAY_TLS_CERT: .*missing.pem cannot be read"),
        ((own, missing, None), "GATEWAY_TLS_KEY: .*missing.pem cannot be read"),
        ((own, key, missing), "GATEWAY_TLS_CLIENT_CA: .*missing.pem cannot be read"),
        ((junk, key, None), "must be a certificate and its key"),
        ((own, other, None), "must be a certificate and its key"),
        ((own, key, junk), "GATEWAY_TLS_CLIENT_CA: .*junk.pem holds no certificate"),
        ((own, encrypted, None), "the key is encrypted"),
    ):
        with pytest.raises(TlsError) as caught:
            read_certificate(*given)
        assert re.search(words, str(caught.value))
