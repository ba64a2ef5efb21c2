"""Options that several commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openclip_triton.command import handshake
from openclip_triton.errors import ConnectionFailed, Unauthenticated

if TYPE_CHECKING:
    from openclip_triton.client import Client

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
        help="API key, if the service requires one. Other users of this machine can see it on the "
        "command line, but not in the environment.",
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
        help="Certificate authorities to trust (PEM), instead of the system's. Implies --tls.",
        rich_help_panel="Connection",
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The client's certificate (PEM), if the service requires one. Implies --tls.",
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
    str,
    typer.Option("--model", metavar="ID", help="Model; by default the service's default model."),
]
Dimensions = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of leading entries to keep of each vector, scaled to unit length."
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="float32|float16",
        help="Type of the vectors on disk. Default: float32 in a file; float16 in a folder, as "
        "clip-retrieval writes it.",
    ),
]
ShardSize = Annotated[
    int, typer.Option(min=1, help="Number of samples in a partition; a tar is one of its own.")
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="clip-retrieval|parquet",
        help="Layout of a folder. Default: clip-retrieval.",
    ),
]  # fmt: skip
Extensions = Annotated[
    str, typer.Option(metavar="LIST", help="Extensions of the images to take from folders.")
]
ImageColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of a table with encoded images, paths or URLs."),
]
TextColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of a table with texts.")
]
KeyColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of a table that names its rows.")
]
Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Folders, image files, globs, webdataset tars, .parquet, .csv, .tsv, or a .txt that "
        "lists files; each a path or a URL.",
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="FILE|FOLDER",
        help="vectors.npy, vectors.parquet, or a folder of parts as clip-retrieval reads them.",
    ),
]  # fmt: skip
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Start over, and replace what the output holds of this kind."),
]
AllowFailures = Annotated[
    bool, typer.Option("--allow-failures", help="Exit with 0 even if some items failed.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS",
        help="Embed the partitions on a Ray cluster: local starts one on this machine, auto takes "
        "the one that this machine is part of, HOST:PORT another.",
    ),
]  # fmt: skip
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]

SHARD_SIZE = 10_000
DEFAULT_SERVER = "127.0.0.1:8081"
NEEDS_KEY = "an API key is needed; set OPENCLIP_API_KEY, or give --api-key"


@dataclass(frozen=True, slots=True)
class Connection:
    """Address of the service, key and TLS."""

    server: str
    api_key: str | None
    tls: bool
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None

    def check(self) -> None:
        """Check the options that need no service.

        Raises:
            typer.BadParameter: Only one of --tls-cert and --tls-key is given.
        """
        if (self.tls_cert is None) != (self.tls_key is None):
            raise typer.BadParameter("give both --tls-cert and --tls-key")

    def connect(self) -> "Client":
        """Open a client.

        Raises:
            UnreadableFile: A file of TLS cannot be read.
        """
        from openclip_triton.client import Client

        return Client(
            self.server,
            api_key=self.api_key,
            tls=self.tls,
            tls_ca=self.tls_ca,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
        )

    @contextmanager
    def open(self) -> Iterator["Client"]:
        """Open a client; errors of connection and key name the missing option."""
        self.check()
        with self.connect() as client:
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
    """Check the type of the vectors.

    Raises:
        typer.BadParameter: It is neither float32 nor float16.
    """
    if dtype not in (None, "float32", "float16"):
        raise typer.BadParameter(f"{dtype} is neither float32 nor float16", param_hint="--dtype")
