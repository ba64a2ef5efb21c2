"""Certificates for tests, made by the `openssl` command."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority of its own folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self.own = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        _openssl(
            "req", "-x509", *_FRESH, "-days", "2", "-subj", f"/CN={name}",
            "-keyout", self.own.key, "-out", self.own.certificate,
        )  # fmt: skip

    @property
    def certificate(self) -> Path:
        return self.own.certificate

    def issue(self, name: str, *, server: bool = True, days: int = 2) -> Pair:
        """A certificate for a host (an address or a name), or for a client of this name."""
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        kind = "IP" if name[0].isdigit() else "DNS"
        purpose = "serverAuth" if server else "clientAuth"
        _openssl(
            "req", "-x509", *_FRESH, "-days", str(days), "-subj", f"/CN={name}",
            "-CA", self.own.certificate, "-CAkey", self.own.key,
            "-addext", f"subjectAltName={kind}:{name}",
            "-addext", f"extendedKeyUsage={purpose}", "-addext", "basicConstraints=CA:FALSE",
            "-keyout", pair.key, "-out", pair.certificate,
        )  # fmt: skip
        return pair


class Mounted:
    """A certificate as Kubernetes mounts one: by links through a folder that is swapped."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self._folder, self._count = folder, 0
        self.pair = Pair(folder / "tls.crt", folder / "tls.key")
        self.renew(pair)
        for file in (self.pair.certificate, self.pair.key):
            file.symlink_to(f"..data/{file.name}")

    def renew(self, pair: Pair) -> None:
        """Put another in its place, both files at once."""
        self._count += 1
        fresh = self._folder / f"..{self._count}"
        fresh.mkdir()
        (fresh / "tls.crt").write_bytes(pair.certificate.read_bytes())
        (fresh / "tls.key").write_bytes(pair.key.read_bytes())
        link = self._folder / "..data_tmp"
        link.symlink_to(fresh.name)
        link.replace(self._folder / "..data")


def expiry(certificate: Path) -> float:
    """When it ends, in Unix seconds."""
    told = _openssl("x509", "-noout", "-enddate", "-in", certificate)
    return float(ssl.cert_time_to_seconds(told.strip().removeprefix("notAfter=")))


_FRESH = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*arguments: str | Path) -> str:
    return subprocess.run(
        ["openssl", *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout
