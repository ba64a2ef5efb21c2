"""Options that several commands share: each field of a dataclass here is one."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openclip_triton.bulk import listing
from openclip_triton.command import handshake
from openclip_triton.errors import ConnectionFailed, Unauthenticated

if TYPE_CHECKING:
    from openclip_triton.client import Client

NEEDS_KEY = "an API key is needed; set OPENCLIP_API_KEY, or give --api-key"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]
ModelId = Annotated[
    str,
    typer.Option("--model", metavar="ID", help="Model; by default the service's default model."),
]
Truncate = Annotated[
    bool,
    typer.Option(
        "--truncate/--no-truncate", help="Cut text over the context length, or count it as failed."
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of a table with encoded images, paths or URLs."),
]
TextColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of a table with texts.")
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
        help="vectors.npy, .parquet or .lance, or a folder of parts as clip-retrieval reads them.",
    ),
]  # fmt: skip


def _connection(*names: str, **given: Any) -> Any:  # noqa: ANN401 - as of typer.Option
    return typer.Option(*names, rich_help_panel="Connection", **given)


@dataclass(frozen=True, slots=True)
class Connection:
    """Address of the service, key and TLS.

    Raises:
        typer.BadParameter: Only one of --tls-cert and --tls-key is given.
    """

    server: Annotated[
        str,
        _connection(
            envvar="OPENCLIP_TRITON_SERVER",
            metavar="HOST:PORT",
            help="gRPC address of the service, or several: ipv4:A:PORT,B:PORT or dns:///NAME:PORT.",
        ),
    ] = "127.0.0.1:8081"
    api_key: Annotated[
        str | None,
        _connection(
            envvar="OPENCLIP_API_KEY",
            metavar="KEY",
            help="API key, if the service requires one. Other users of this machine can see it on "
            "the command line, but not in the environment.",
        ),
    ] = None
    tls: Annotated[bool, _connection("--tls", help="Encrypt.")] = False
    tls_ca: Annotated[
        Path | None,
        _connection(
            metavar="FILE",
            help="Certificate authorities to trust (PEM), instead of the system's. Implies --tls.",
        ),
    ] = None
    tls_cert: Annotated[
        Path | None,
        _connection(
            metavar="FILE",
            help="The client's certificate (PEM), if the service requires one. Implies --tls.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None, _connection(metavar="FILE", help="Key of that certificate (PEM).")
    ] = None

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise typer.BadParameter("give both --tls-cert and --tls-key")

    def connect(self) -> "Client":
        """Open a client.

        Raises:
            UnreadableFile: A file of TLS cannot be read.
        """
        from openclip_triton.client import Client

        others = asdict(self)  # named as the client's own arguments
        return Client(others.pop("server"), **others)

    @contextmanager
    def open(self) -> Iterator["Client"]:
        """Open a client; errors of connection and key name the missing option."""
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


@dataclass(frozen=True, slots=True)
class Embedding:
    """Options of a job: embedding and output."""

    key_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of a table that names its rows.")
    ] = None
    extensions: Annotated[
        str, typer.Option(metavar="LIST", help="Extensions of the images to take from folders.")
    ] = ",".join(listing.EXTENSIONS)
    model: ModelId = ""
    dimensions: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of leading entries to keep of each vector, scaled to unit length."
        ),
    ] = None
    dtype: Annotated[
        Literal["float32", "float16"] | None,
        typer.Option(
            help="Type of the vectors on disk. Default: float32 in a file; float16 in a folder, as "
            "clip-retrieval writes it."
        ),
    ] = None
    shape: Annotated[
        Literal["clip-retrieval", "parquet"] | None,
        typer.Option("--format", help="Layout of a folder. Default: clip-retrieval."),
    ] = None
    shard_size: Annotated[
        int,
        typer.Option(
            min=1, help="Number of samples in a partition; a tar is always one partition."
        ),
    ] = 10_000
    metadata: Annotated[
        bool,
        typer.Option(
            "--metadata",
            help="Read the .json files of webdataset tars; each field is a column of a folder's "
            "metadata.",
        ),
    ] = False
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Start over, and replace what the output holds of this kind."
        ),
    ] = False
    allow_failures: Annotated[
        bool, typer.Option("--allow-failures", help="Exit with 0 even if some items failed.")
    ] = False
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Embed the partitions on a Ray cluster: local starts one on this machine, auto "
            "uses the one that this machine is part of, HOST:PORT another.",
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")] = False


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """Make each field of a command's dataclasses an option of its own, as typer takes them."""
    given = inspect.signature(command, eval_str=True).parameters
    hints = {name: each.annotation for name, each in given.items()}
    groups = {name: each for name, each in hints.items() if each in (Connection, Embedding)}
    options = {name: inspect.signature(group).parameters for name, group in groups.items()}

    @wraps(command)
    def run(**values: object) -> None:
        for name, group in groups.items():
            values[name] = group(**{option: values.pop(option) for option in options[name]})
        command(**values)

    shown = [each for name in given for each in options.get(name, {name: given[name]}).values()]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in shown]
    )
    return run
