"""Certificates for tests, made by the `openssl` command."""

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
            "req", "-x509", *_FRESH, "-subj", f"/CN={name}", "-keyout", self.own.key, "-out",
            self.own.certificate,
        )  # fmt: skip

    @property
    def certificate(self) -> Path:
        return self.own.certificate

    def issue(self, name: str, *, server: bool = True) -> Pair:
        """A certificate for a host (an address or a name), or for a client of this name."""
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        kind = "IP" if name[0].isdigit() else "DNS"
        purpose = "serverAuth" if server else "clientAuth"
        _openssl(
            "req", "-x509", *_FRESH, "-subj", f"/CN={name}",
            "-CA", self.own.certificate, "-CAkey", self.own.key,
            "-addext", f"subjectAltName={kind}:{name}",
            "-addext", f"extendedKeyUsage={purpose}", "-addext", "basicConstraints=CA:FALSE",
            "-keyout", pair.key, "-out", pair.certificate,
        )  # fmt: skip
        return pair


_FRESH = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
