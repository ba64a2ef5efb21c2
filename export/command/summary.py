"""The summary that an export prints, and the report that it writes."""

import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path

from export.command.arguments import REPOSITORY
from export.errors import ExportError
from export.publish.variant_publisher import Outcome
from export.report.report import write_report


def summary(outcome: Outcome, root: Path) -> str:
    """Summarize a variant in a few lines: id, place, sizes, cosines and fingerprint."""
    if outcome.report is None:
        return f"refused      {outcome.id}\n"
    manifest, figures = outcome.manifest, outcome.report.measured
    cosines = (
        f"cosine       image {figures.image.min_cosine:.7f}, text {figures.text.min_cosine:.7f} "
        f"at worst; {figures.image.mean_cosine:.7f}, {figures.text.mean_cosine:.7f} on average\n"
    )
    speeds = "".join(f"speed        {each.describe()}\n" for each in outcome.report.speeds)
    if manifest is None:
        return f"refused      {outcome.id}\n{cosines}{speeds}"
    image, *texts = (manifest.triton.image, *manifest.triton.text)
    lengths = ", ".join(str(length) for length in manifest.token_lengths)
    served = f"served at {lengths}" if lengths else f"any length up to {texts[-1].length}"
    failing = "".join(f"failing      {failure}\n" for failure in outcome.failures)
    recipe = "".join(
        f"{manifest.precision:<13}{encoder}: {how}\n" for encoder, how in manifest.recipe.items()
    )
    return (
        f"published    {manifest.id}, version {manifest.version}, in {root}\n{failing}"
        f"image        {image.name}: {_size(root, image.name, manifest.version)}, "
        f"{manifest.preprocessing.image_size} pixels -> {manifest.embedding_size} dimensions\n"
        f"text         {texts[-1].name}: {_size(root, texts[-1].name, manifest.version)}, "
        f"{served} tokens\n{recipe}{cosines}{speeds}"
        f"fingerprint  {manifest.fingerprint}\n"
    )


def how_to_serve(root: Path) -> str:
    """The last line of the summary: how to serve the repository."""
    default = root.resolve() == REPOSITORY.resolve()
    place = "" if default else f" MODEL_REPOSITORY={shlex.quote(str(root))}"
    return f"serve it     make run{place}; a running service loads it by itself\n"


def write_reports(outcomes: Sequence[Outcome], folder: Path | None) -> Path | None:
    """Write one report on all variants; return its path, or None if no variant could run.

    Raises:
        ExportError: The folder cannot be written.
    """
    measured = [outcome.report for outcome in outcomes if outcome.report is not None]
    not_run = [
        f"`{outcome.id}`: {failure}"
        for outcome in outcomes
        if outcome.report is None
        for failure in outcome.failures
    ]
    if not measured:
        return None
    chosen = folder or Path("reports") / measured[0].id
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    try:
        return write_report(chosen, measured, machine, not_run)
    except OSError as error:
        raise ExportError(f"{chosen}: the report cannot be written: {error.strerror}") from error


def _size(root: Path, encoder: str, version: int) -> str:
    size = sum(path.stat().st_size for path in (root / encoder / str(version)).iterdir())
    return f"{size / 1e6:.1f} MB"
