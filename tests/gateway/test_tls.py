"""TLS for both protocols: the certificate, clients' certificates, and what is wrong with either."""

import asyncio
import contextlib
import errno
import os
import re
import socket
import ssl
import subprocess
from functools import partial
from http.client import HTTPSConnection
from pathlib import Path

import grpc
import httpx
import pytest

from gateway.access.tls import Tls, TlsError, TlsFiles, read_tls
from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory, Outside
from tests.gateway.certificates import Authority, Mounted, Pair, expiry
from tests.gateway.keyed import call
from tests.gateway.scraping import scrape, value
from tests.gateway.waiting import until, wait_until

pytestmark = pytest.mark.slow

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


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


@pytest.mark.parametrize("workers", [1, 2])
def test_a_renewed_certificate_is_served_without_a_restart(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path, workers: int
) -> None:
    before, after = authorities(tmp_path)
    renewed = after.issue("127.0.0.1", days=90)
    mounted = Mounted(tmp_path, before.issue("127.0.0.1"))
    with start_gateway(
        Outside(tls=trusting(before, after)),
        triton_address=triton.addresses.grpc,
        tls_cert=mounted.pair.certificate,
        tls_key=mounted.pair.key,
        workers=workers,
    ) as client:
        rest, rpc = f"127.0.0.1:{client.base_url.port}", client.grpc_address
        assert expires(client) == expiry(mounted.pair.certificate)
        with (
            contextlib.closing(HTTPSConnection(rest, context=trusting(before))) as connection,
            grpc.secure_channel(rpc, credentials(before)) as channel,
        ):
            assert read(connection) == 200
            call(channel, None)
            held = connection.sock
            mounted.renew(renewed)
            for address in (rest, rpc):
                wait_until(partial(trusted, address, after, times=20))  # by each process

            assert status(rpc, credentials(after)) == grpc.StatusCode.OK
            assert status(rpc, credentials(before)) == grpc.StatusCode.UNAVAILABLE
            assert (
                httpx.get(f"https://{rest}/livez", verify=trusting(after), timeout=60).status_code
                == 200
            )
            assert read(connection) == 200
            assert connection.sock is held
            call(channel, None)  # over its old connection: it would not trust a new one
            wait_until(lambda: expires(client) == expiry(renewed.certificate))


def authorities(folder: Path) -> tuple[Authority, Authority]:
    for name in ("before", "after"):
        (folder / name).mkdir()
    return Authority(folder / "before"), Authority(folder / "after")


def trusting(*authorities: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authorities[0].certificate)
    for authority in authorities[1:]:
        context.load_verify_locations(authority.certificate)
    return context


def trusted(address: str, authority: Authority, times: int = 1) -> bool:
    """Whether new connections meet a certificate of this authority."""
    host, port = address.split(":")
    context = trusting(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    for _ in range(times):
        with socket.create_connection((host, int(port)), timeout=30) as plain:
            try:
                context.wrap_socket(plain, server_hostname=host).close()
            except ssl.SSLCertVerificationError:
                return False
    return True


def read(connection: HTTPSConnection) -> int:
    connection.request("GET", "/livez")
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


def expires(client: GatewayClient) -> float:
    return value(scrape(client), "certificate_expiry_timestamp_seconds")


def test_a_broken_renewal_leaves_the_old_certificate(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    before, after = authorities(tmp_path)
    served, renewed = before.issue("127.0.0.1"), after.issue("127.0.0.1")
    log = tmp_path / "log"
    with start_gateway(
        Outside(log, trusting(before, after)),
        triton_address=triton.addresses.grpc,
        tls_cert=served.certificate,
        tls_key=served.key,
    ) as client:
        addresses = f"127.0.0.1:{client.base_url.port}", client.grpc_address
        # A new certificate whose key is not there yet.
        served.certificate.write_bytes(renewed.certificate.read_bytes())
        wait_until(lambda: "KEY_VALUES_MISMATCH; the previous certificate" in log.read_text())
        for address in addresses:
            assert trusted(address, before)
        served.key.write_bytes(renewed.key.read_bytes())
        for address in addresses:
            wait_until(partial(trusted, address, after))
        assert status(client.grpc_address, credentials(after)) == grpc.StatusCode.OK
    assert log.read_text().count("still served") == 1
    assert "PRIVATE KEY" not in log.read_text()


def test_other_clients_are_let_in_and_those_of_before_are_not(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    before, after = authorities(tmp_path)
    served = before.issue("127.0.0.1")
    earlier, later = (each.issue("app", server=False) for each in (before, after))
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(before.certificate.read_bytes())
    both = trusting(before)
    both.maximum_version = ssl.TLSVersion.TLSv1_2  # whose sessions are there with the handshake
    both.load_cert_chain(earlier.certificate, earlier.key)
    with start_gateway(
        Outside(tls=both),
        triton_address=triton.addresses.grpc,
        tls_cert=served.certificate,
        tls_key=served.key,
        tls_client_ca=trusted,
    ) as client:
        session, _ = begin(client, both, None)
        assert begin(client, both, session) == (session, True)
        assert status(client.grpc_address, credentials(before, later)) == UNAVAILABLE
        trusted.write_bytes(after.certificate.read_bytes())

        def let_in() -> bool:
            return status(client.grpc_address, credentials(before, later)) is grpc.StatusCode.OK

        wait_until(let_in)
        assert status(client.grpc_address, credentials(before, earlier)) == UNAVAILABLE
        fresh = trusting(before)
        fresh.load_cert_chain(later.certificate, later.key)
        assert httpx.get(f"{client.base_url}/livez", verify=fresh, timeout=60).status_code == 200
        for resumed in (None, session):
            with pytest.raises(ssl.SSLError):
                begin(client, both, resumed)


def begin(
    client: GatewayClient, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """A new connection, to take up this session; the session that it has, and if it is that."""
    address = ("127.0.0.1", client.base_url.port)
    with (
        socket.create_connection(address, timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as encrypted,
    ):
        return encrypted.session, encrypted.session_reused


async def test_what_stays_broken_is_told_once(
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.access.tls.CHECK_S", 0.01)
    issued = authority.issue("once.test")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(issued.certificate.read_bytes())
    key.write_bytes(issued.key.read_bytes())
    tls, told = Tls(TlsFiles(chain, key, None)), list[float]()
    before = tls.certificate
    following = asyncio.create_task(tls.follow(told.append))
    try:
        for content in (b"", before.chain[:200]):  # no certificate: one problem, for as long as
            chain.write_bytes(content)
            await until(lambda: caplog.records)
            await asyncio.sleep(0.3)
        key.unlink()
        await until(lambda: len(caplog.records) == 2)
        assert tls.certificate is before
        assert not told

        chain.write_bytes(before.chain)
        key.write_bytes(before.key)
        await asyncio.sleep(0.3)
        assert tls.certificate is before  # nothing changed, so nothing is logged

        renewed = authority.issue("once.test")
        chain.write_bytes(renewed.certificate.read_bytes())
        key.write_bytes(renewed.key.read_bytes())
        await until(lambda: tls.certificate is not before)
        assert told == [expiry(renewed.certificate)]
    finally:
        following.cancel()
    broken, missing = (record.getMessage() for record in caplog.records)
    assert "must be a certificate and its key" in broken
    assert re.search("GATEWAY_TLS_KEY: .*key.pem cannot be read: No such file", missing)


@pytest.mark.parametrize("method", ["load_cert_chain", "load_verify_locations"])
def test_an_error_of_the_system_is_one_of_the_files(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """CPython raises it for files that do not fit, where errno was left set."""

    def load(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    pair = authority.issue("errno.test")
    monkeypatch.setattr(ssl.SSLContext, method, load)
    with pytest.raises(TlsError, match="GATEWAY_TLS_"):
        TlsFiles(pair.certificate, pair.key, pair.certificate).read()


@pytest.mark.parametrize("days", [1, 20_000])  # written with a year of two digits, and of four
def test_the_expiry_is_read(authority: Authority, days: int) -> None:
    pair = authority.issue("expiry.test", days=days)
    assert TlsFiles(pair.certificate, pair.key, None).read().expires == expiry(pair.certificate)


def test_nothing_named_is_plain_text() -> None:
    assert read_tls(None, None, None) is None


def test_the_key_is_not_shown(served: Pair) -> None:
    read = TlsFiles(served.certificate, served.key, None).read()
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
            read_tls(*given)
        assert re.search(words, str(caught.value))
