"""The commands: their options, and the functions that run them.

Commands import numpy and gRPC only when they run: help and wrong options need neither.
"""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer

from openclip_triton.bulk.display import display_for
from openclip_triton.bulk.listing import Listing
from openclip_triton.bulk.samples import IMAGES, KINDS, TEXTS, Kind
from openclip_triton.command import options, printing
from openclip_triton.command.classification import classify_each

if TYPE_CHECKING:
    from openclip_triton.bulk.job import Job

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(asked: bool) -> None:
    if not asked:
        return
    from importlib import metadata

    try:
        version = metadata.version("openclip-triton-client")
    except metadata.PackageNotFoundError:
        version = "of a checkout, not installed"
    typer.echo(f"openclip-triton {version}")
    raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Embed texts and images, and classify images, with an openclip-triton service."""


@app.command("embed-text")
@options.flat
def embed_text(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...|-",
            help="A file with one text per line (- reads it), .csv, .tsv, .parquet, webdataset "
            "tars, or a folder of images with a .txt next to each; each a path or a URL.",
        ),
    ],
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE|FOLDER",
            help="vectors.npy, .parquet or .lance, or a folder; without it, JSON is printed.",
        ),
    ] = None,
    text_column: options.TextColumn = None,
    truncate: options.Truncate = True,
    how: options.Embedding,
    connection: options.Connection,
) -> None:  # fmt: skip
    """Embed texts: lines, columns of tables, captions of tars and folders.

    Rows follow the order of the input. Texts that fail have no row and are listed in
    OUTPUT.failed.txt. After an interrupt, the same command continues. A folder that has the images
    of the same input also takes the texts.
    """
    if output is None:
        if how.ray is not None:
            raise typer.BadParameter("give --output", param_hint="--ray")
        _print_texts(texts, how, connection, truncate=truncate)
    job = _job(texts, output, (TEXTS,), how, text=text_column, truncate=truncate)
    _run(job, how, connection)


@app.command("embed-images")
@options.flat
def embed_images(
    paths: options.Inputs,
    output: options.Output,
    *,
    image_column: options.ImageColumn = None,
    how: options.Embedding,
    connection: options.Connection,
) -> None:
    """Embed images: files, those below folders (sorted by name), those of tars and tables.

    Images that fail have no row and are listed in OUTPUT.failed.txt. After an interrupt, the same
    command continues; it repeats partitions whose input has changed.
    """
    _run(_job(paths, output, (IMAGES,), how, image=image_column), how, connection)


@app.command("embed-pairs")
@options.flat
def embed_pairs(
    paths: options.Inputs,
    output: options.Output,
    *,
    image_column: options.ImageColumn = None,
    text_column: options.TextColumn = None,
    truncate: options.Truncate = True,
    how: options.Embedding,
    connection: options.Connection,
) -> None:
    """Embed images with their captions, row by row: of tars, tables, and folders with .txt files.

    A pair of which one side fails has no row and is listed in OUTPUT.failed.txt. After an
    interrupt, the same command continues.
    """
    job = _job(paths, output, KINDS, how, image=image_column, text=text_column, truncate=truncate)
    _run(job, how, connection)


@app.command("classify")
@options.flat
def classify(
    images: Annotated[
        list[Path], typer.Argument(metavar="FOLDER|FILE...", exists=True, help="The images.")
    ],
    *,
    labels: Annotated[
        str, typer.Option(metavar="A,B,...", help="Labels to choose from, separated by commas.")
    ] = "",
    labels_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A file with one label per line."),
    ] = None,
    label_set: Annotated[
        str, typer.Option(metavar="NAME", help="A label set of the service.")
    ] = "",
    template: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Text with {} in place of the label; repeatable."),
    ] = None,
    template_set: Annotated[
        str, typer.Option(metavar="NAME", help="A template set of the service.")
    ] = "",
    top_k: Annotated[int, typer.Option(min=1, help="Number of labels shown for each image.")] = 3,
    as_json: options.AsJson = False,
    model: options.ModelId = "",
    connection: options.Connection,
) -> None:
    """Classify images by your labels, or by a label set of the service."""
    given = [name for name in labels.split(",") if name.strip()]
    if labels_file is not None:
        given += [name for name in _lines(labels_file) if name.strip()]
    if bool(given) == bool(label_set):
        raise typer.BadParameter("give either --labels (or --labels-file) or --label-set")
    found = Listing(map(str, images))
    with connection.open() as client:
        ask = partial(
            client.classify, labels=[name.strip() for name in given], label_set=label_set,
            templates=template or (), template_set=template_set, top_k=top_k, model=model,
        )  # fmt: skip
        answers = classify_each(ask, found)
        failed = printing.print_predictions(answers, as_json=as_json)
    raise typer.Exit(1 if failed else 0)


@app.command("models")
@options.flat
def models(*, as_json: options.AsJson = False, connection: options.Connection) -> None:
    """List the served models."""
    with connection.open() as client:
        printing.print_models(client.models(), as_json=as_json)


def _opened(texts: str, stack: ExitStack) -> TextIO:
    if texts == "-":
        return sys.stdin
    path = Path(texts)
    if not path.is_file():
        raise typer.BadParameter(f"{texts} is not a file", param_hint="INPUT")
    return stack.enter_context(path.open(encoding="utf-8", errors="surrogateescape"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        why = f"{path} is not UTF-8: {error.reason} at byte {error.start:,}"
        raise typer.BadParameter(why, param_hint="--labels-file") from error


def _print_texts(
    texts: list[str], how: options.Embedding, connection: options.Connection, *, truncate: bool
) -> NoReturn:
    if len(texts) > 1:
        raise typer.BadParameter("give --output for more than one input", param_hint="INPUT")
    with ExitStack() as stack:
        source = _opened(texts[0], stack)
        client = stack.enter_context(connection.open())
        lines = enumerate(line.rstrip("\r\n") for line in source)
        results = client.stream(
            (((number, line), line) for number, line in lines),
            model=how.model, dimensions=how.dimensions, truncate=truncate, ordered=True,
        )  # fmt: skip
        failed = printing.print_vectors(results)
    raise typer.Exit(1 if failed and not how.allow_failures else 0)


def _job(
    paths: list[str],
    output: str,
    kinds: tuple[Kind, ...],
    how: options.Embedding,
    *,
    image: str | None = None,
    text: str | None = None,
    truncate: bool | None = None,
) -> "Job":
    """Check the options that need no service, and put the job together.

    Raises:
        typer.BadParameter: An option is wrong.
    """
    from openclip_triton.bulk.inputs.catalog import Inputs
    from openclip_triton.bulk.inputs.columns import Columns
    from openclip_triton.bulk.job import Job
    from openclip_triton.bulk.outputs.output import output_of

    extensions = [each.strip().lower() for each in how.extensions.split(",")]
    endings = tuple("." + each.lstrip(".") for each in extensions if each)
    if not endings:
        raise typer.BadParameter("give at least one", param_hint="--extensions")
    if Path(output).name in ("", ".."):
        raise typer.BadParameter(f"{output}: name a file or a folder", param_hint="--output")
    try:
        target = output_of(output, kinds, how.dtype, how.shape)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    if how.metadata and not target.layout.joins:
        where = "metadata needs a folder in the layout of clip-retrieval"
        raise typer.BadParameter(where, param_hint="--metadata")
    columns = Columns(image, text, how.key_column)
    inputs = Inputs(paths, kinds, how.shard_size, endings, columns, how.metadata)
    return Job(
        inputs, target, how.model, how.dimensions, truncate, how.overwrite, how.allow_failures
    )


def _run(job: "Job", how: options.Embedding, connection: options.Connection) -> NoReturn:
    from openclip_triton.bulk.job import run

    with connection.open() as client, ExitStack() as stack:
        runner_of = None
        if how.ray is not None:
            from openclip_triton.bulk import cluster

            stack.enter_context(cluster.connected(how.ray))
            folder = None if job.remote else str(Path.cwd())
            runner_of = partial(cluster.RayRunner, connection.connect, folder)
        summary = run(job, client, display_for(job.noun, quiet=how.quiet), runner_of)
    printing.print_summary(job, summary, quiet=how.quiet)
    raise typer.Exit(1 if summary.failed and not job.allow_failures else 0)
