"""Output of the commands: tables for people, JSON lines for programs."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from openclip_triton.bulk.display import counted
from openclip_triton.command.classification import Answer

if TYPE_CHECKING:
    from openclip_triton.bulk.job import Job, Summary
    from openclip_triton.values import Model, Result


def complain(message: str) -> None:
    """Print one line on standard error."""
    print(message, file=sys.stderr, flush=True)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON line on standard output."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_vectors(results: "Iterable[Result[tuple[int, str]]]") -> int:
    """Print a JSON line for each text, as results come; return the number of failures."""
    failed = 0
    for result in results:
        number, text = result.id
        line: dict[str, Any] = {"index": number, "text": text}
        if result.vector is not None:
            # the shortest decimals of the float32, not of its float64
            line["embedding"] = [float(str(value)) for value in result.vector]
            if result.truncated:
                line["truncated"] = True
        elif result.error is not None:
            failed += 1
            line["error"] = {"code": result.error.code, "message": result.error.message}
            complain(f"line {number + 1}: {result.error.message}")
        print_json(line)
    return failed


def print_summary(job: "Job", summary: "Summary", *, quiet: bool) -> None:
    """Print the output, and the numbers of cut, skipped and failed items."""
    noun, output = job.noun, job.output
    if not quiet:
        space = summary.space
        rows = counted(summary.done, "vector" if len(job.kinds) == 1 else "pair")
        complain(
            f"{output.path}: {rows} of {space.dimensions} entries, "
            f"model {space.model}, fingerprint {space.fingerprint[:12]}"
        )
        if summary.truncated:
            complain(f"{counted(summary.truncated, noun)} cut to the context length")
        if summary.left_out:
            complain(f"{counted(summary.left_out, noun)} left out: the other half has no row there")
        if summary.passed_over:
            passed = counted(summary.passed_over, "file")
            complain(f"{passed} passed over for another extension")
    if summary.failed:
        complain(f"{counted(summary.failed, noun)} failed, with the reasons in {output.failed}:")
        for failure in summary.failures:
            complain(f"  {failure}".replace("\t", "  "))
        if summary.failed > len(summary.failures):
            complain(f"  and {summary.failed - len(summary.failures):,} more")


def print_predictions(answers: Iterable[Answer], *, as_json: bool) -> int:
    """Print a table of labels, or a JSON line for each image; return the number of failures."""
    failed = 0
    table = Table("image", "label", box=box.SIMPLE_HEAD)
    for title in ("score", "cosine"):
        table.add_column(title, justify="right")
    for answer in answers:
        if answer.problem:
            failed += 1
            complain(f"{answer.path}: {answer.problem}")
        elif as_json:
            predictions = [asdict(prediction) for prediction in answer.predictions]
            print_json({"path": answer.path, "predictions": predictions})
        for place, found in enumerate(() if as_json else answer.predictions):
            image = Text("" if place else answer.path)
            table.add_row(image, Text(found.label), f"{found.score:.4f}", f"{found.cosine:.4f}")
    if table.row_count:
        _show(table)
    return failed


def print_models(models: "list[Model]", *, as_json: bool) -> None:
    """Print a table of the served models, or a JSON line for each."""
    if as_json:
        for model in models:
            print_json(asdict(model))
        return
    table = Table("model", "OpenCLIP", "weights", "precision", "runtime", box=box.SIMPLE_HEAD)
    for title in ("vector", "image", "text"):
        table.add_column(title, justify="right")
    table.add_column("fingerprint")
    for model in models:
        table.add_row(
            model.id, model.open_clip_name, model.pretrained or "random", model.precision,
            model.runtime, str(model.embedding_size), f"{model.image_size} px",
            f"{model.context_length} tokens", model.fingerprint[:12],
        )  # fmt: skip
    _show(table)


def _show(table: Table) -> None:
    # A pipe gets the full width, without a cut at 80 columns.
    console = Console()
    if not console.is_terminal:
        width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        console = Console(width=width)
    console.print(table)
