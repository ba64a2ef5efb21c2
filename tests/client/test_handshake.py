"""What the command says where TLS or a key stands between it and the service."""

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from openclip_triton.command import handshake

from server.launcher import TritonServer
from tests.client.conftest import command
from tests.conftest import GatewayFactory
from tests.gateway.certificates import Authority, Pair
from tests.gateway.keyed import Keys

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Secured:
    """A service with TLS on 127.0.0.1 alone, which `localhost` names as well."""

    port: int
    authority: Authority


def secured(authority: Authority, pair: Pair, *, clients: bool) -> tuple[grpc.Server, Secured]:
    given = grpc.ssl_server_credentials(
        [(pair.key.read_bytes(), pair.certificate.read_bytes())],
        root_certificates=authority.certificate.read_bytes() if clients else None,
        require_client_auth=clients,
    )
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", given)
    server.start()
    return server, Secured(port, authority)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    server, found = secured(authority, authority.issue("localhost"), clients=False)
    yield found
    server.stop(None).wait()


def told(ran: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a failed command wrote, besides what gRPC itself logs."""
    assert ran.returncode == 1
    [line] = [each for each in ran.stderr.splitlines() if "ssl_transport_security" not in each]
    return line


def test_a_plain_connection_to_tls_names_the_option(tls: Secured) -> None:
    for host in ("127.0.0.1", "localhost"):
        line = told(command(f"{host}:{tls.port}", "models"))
        assert f"no connection to {host}:{tls.port}: the service speaks TLS; give --tls" in line


def test_a_certificate_that_is_not_trusted_is_told(tls: Secured) -> None:
    address = f"localhost:{tls.port}"
    line = told(command(address, "models", "--tls"))
    assert re.search(r"its certificate is not trusted: .*; give --tls-ca", line)
    line = told(command(f"127.0.0.1:{tls.port}", "models", "--tls-ca", tls.authority.certificate))
    assert "its certificate is not trusted" in line
    assert "127.0.0.1" in line
    assert "--tls-ca" not in line
    line = told(command(address, "models", "--tls-ca", tls.authority.certificate))
    assert "does not speak openclip.v1.ClipService" in line  # TLS was not what failed


def test_tls_to_a_plain_service_is_told(real_address: str) -> None:
    line = told(command(real_address, "models", "--tls"))
    assert f"no connection to {real_address}: the service does not speak TLS" in line


def test_a_certificate_of_ours_that_is_missing_is_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, found = secured(authority, authority.issue("localhost"), clients=True)
    try:
        address = f"localhost:{found.port}"
        line = told(command(address, "models", "--tls-ca", authority.certificate))
        assert "does it require a certificate? give --tls-cert and --tls-key" in line
        other = Authority(tmp_path, "other").issue("somebody", server=False)
        given = ("--tls-cert", other.certificate, "--tls-key", other.key)
        line = told(command(address, "models", "--tls-ca", authority.certificate, *given))
        assert "does it trust the certificate of --tls-cert?" in line
    finally:
        server.stop(None).wait()


def test_a_port_that_is_no_number_is_not_what_tls_is_about() -> None:
    assert handshake.problem("localhost:\N{SUPERSCRIPT TWO}", tls=True) is None


def test_a_missing_key_is_told_in_the_commands_own_words(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    keys = Keys(tmp_path / "keys.yaml")
    secret = keys.add("somebody")
    with start_gateway(triton_address=triton.addresses.grpc, api_keys_file=keys.path) as api:
        line = told(command(api.grpc_address, "models"))
        assert line.endswith("an API key is needed; set OPENCLIP_API_KEY, or give --api-key")
        assert "not known" in told(command(api.grpc_address, "models", "--api-key", "wrong"))
        assert command(api.grpc_address, "models", "--api-key", secret).returncode == 0
