"""Options that several commands have."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from openclip_triton import handshake
from openclip_triton.client import Client
from openclip_triton.errors import ConnectionFailed, Unauthenticated

Server = Annotated[
    str,
    typer.Option(
        envvar="OPENCLIP_TRITON_SERVER",
        metavar="HOST:PORT",
        help="gRPC address of the service.",
        rich_help_panel="Connection",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="OPENCLIP_API_KEY",
        metavar="KEY",
        help="API key, where the service asks for one; other users of this machine see what is "
        "given here, and not what is in the environment.",
        rich_help_panel="Connection",
    ),
]
Tls = Annotated[
    bool,
    typer.Option("--tls", help="Encrypt.", rich_help_panel="Connection"),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Certificate authorities to trust (PEM), instead of the machine's. Implies --tls.",
        rich_help_panel="Connection",
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Certificate of ours (PEM), where the service asks for one. Implies --tls.",
        rich_help_panel="Connection",
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Key of that certificate (PEM).",
        rich_help_panel="Connection",
    ),
]
ModelId = Annotated[
    str, typer.Option("--model", metavar="ID", help="Model; by default the one that is served.")
]
Dimensions = Annotated[
    int | None,
    typer.Option(min=1, help="Keep so many entries of each vector, scaled to unit length again."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="float32|float16",
        help="Of the vectors on disk. Default: float32 in a file; in a folder float16, as "
        "clip-retrieval has it.",
    ),
]
ShardSize = Annotated[int, typer.Option(min=1, help="Rows in each file of a folder.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Begin anew: forget kept progress, replace the output."),
]
AllowFailures = Annotated[
    bool, typer.Option("--allow-failures", help="Exit with 0 although some could not be embedded.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only what went wrong.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]

DEFAULT_SERVER = "127.0.0.1:8081"
NEEDS_KEY = "an API key is needed; set OPENCLIP_API_KEY, or give --api-key"


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the service is, and how to be let in."""

    server: str
    api_key: str | None
    tls: bool
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None

    @contextmanager
    def open(self) -> Iterator[Client]:
        """A client of the service; what keeps us out is told with the option that lets us in."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise typer.BadParameter("give both --tls-cert and --tls-key")
        client = Client(
            self.server,
            api_key=self.api_key,
            tls=self.tls,
            tls_ca=self.tls_ca,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
        )
        with client:
            try:
                yield client
            except ConnectionFailed as error:
                found = self._problem()
                if found is None:
                    raise
                raise ConnectionFailed(f"no connection to {self.server}: {found}") from error
            except Unauthenticated as error:
                if self.api_key:
                    raise
                raise Unauthenticated(NEEDS_KEY, code=error.code) from error

    def _problem(self) -> str | None:
        own = (self.tls_cert, self.tls_key) if self.tls_cert and self.tls_key else None
        tls = bool(self.tls or self.tls_ca or own)
        return handshake.problem(self.server, tls=tls, ca=self.tls_ca, own=own)


def check_dtype(dtype: str | None) -> None:
    """Refuses what is not a type of vectors.

    Raises:
        typer.BadParameter: It is neither float32 nor float16.
    """
    if dtype not in (None, "float32", "float16"):
        raise typer.BadParameter(f"{dtype} is neither float32 nor float16", param_hint="--dtype")
