"""`python -m benchmarks.ladder`: every variant of a model, exported, served and timed again.

Exports all variants that this machine can, which the exporter itself measures against PyTorch.
Then each published variant is served alone by a real Triton and timed over gRPC, and so is the
plain PyTorch model, in turns, so that a machine that slows down slows all of them.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.published import Manifest, manifests, size_bytes
from benchmarks.served import Served, Times

BATCHES = (1, 8, 32)
PRECISIONS = ("fp32", "fp16", "int8")
REFUSED = 2  # exit code of an export of which a variant fell short
TOWERS = ("image", "text")
NONE = "–"  # noqa: RUF001 (an en dash, for an empty cell)
NOTES = """\
PyTorch runs in its own process, with OMP_WAIT_POLICY=PASSIVE, on input that is ready in memory.
The others are served by Triton, one at a time, and timed by a client on the same machine that
sends its next request when the last is answered. Text is at the full context length for all of
them; served at fewer tokens it is faster. Memory is that of tritonserver and the processes of all
towers, or of PyTorch's process."""


@dataclass(frozen=True, slots=True)
class Target:
    """The model, as `python -m export` takes it."""

    model: str
    pretrained: str | None = None
    tokenizer: Path | None = None

    @property
    def arguments(self) -> list[str]:
        """For the command lines of `export` and `export.torch_row`."""
        pretrained = ["--pretrained", self.pretrained] if self.pretrained else []
        tokenizer = ["--tokenizer", str(self.tokenizer)] if self.tokenizer else []
        return [self.model, *pretrained, *tokenizer]

    @property
    def slug(self) -> str:
        """The model's name as a file name."""
        name = Path(self.model).stem if "/" in self.model else self.model
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


@dataclass(slots=True)
class Row:
    """One line of the table; the times of all rounds together."""

    name: str
    size_bytes: int = 0
    min_cosines: tuple[float, float] | None = None  # image, text
    zero_shot: float | None = None  # 0 to 1
    memory_bytes: list[int] = field(default_factory=list)  # one per round
    seconds: dict[str, Times] = field(default_factory=lambda: {tower: {} for tower in TOWERS})

    def add(self, tower: str, times: Times) -> None:
        """Adds the times of another round."""
        for batch, taken in times.items():
            self.seconds[tower].setdefault(batch, []).extend(taken)

    def percentile(self, tower: str, percent: float) -> float | None:
        """Of the latency at batch 1, in milliseconds."""
        taken = self.seconds[tower].get(1)
        return float(np.percentile(taken, percent)) * 1000 if taken else None

    def per_second(self, tower: str, batch: int) -> float | None:
        """Items per second when calls of this batch size follow one another."""
        taken = self.seconds[tower].get(batch)
        return batch * len(taken) / sum(taken) if taken else None


def export(target: Target, repository: Path, arguments: Iterable[str]) -> list[Manifest]:
    """Exports, and returns the manifests of what was published, in the order of publication.

    Raises:
        BenchmarkError: The export failed, or nothing passed its gate.
    """
    before = {(m["id"], m["version"]) for m in manifests(repository).values()}
    command = ["-m", "export", *target.arguments, "--repository", str(repository), *arguments]
    code = subprocess.run([sys.executable, *command], check=False).returncode  # noqa: S603 (ours)
    found = [m for m in manifests(repository).values() if (m["id"], m["version"]) not in before]
    if code not in (0, REFUSED):
        raise BenchmarkError(f"the export of {target.model} failed; see its message above")
    if not found:
        raise BenchmarkError(f"no variant of {target.model} was published; see the reasons above")
    order = {precision: place for place, precision in enumerate(PRECISIONS)}
    return sorted(found, key=lambda m: (order[m["precision"]], m["id"]))


def climb(
    target: Target,
    repository: Path,
    published: Sequence[Manifest],
    seconds: float,
    rounds: int = 2,
    batches: Sequence[int] = BATCHES,
) -> list[Row]:
    """Times PyTorch and each published variant, one after the other, so many times over.

    Raises:
        BenchmarkError: One of the programs failed.
    """
    pytorch = Row("PyTorch FP32", zero_shot=_accuracy(published[0], "pytorch_accuracy"))
    rows = [pytorch, *(_row(repository, manifest) for manifest in published)]
    for turn in range(rounds):
        for row, manifest in zip(rows, (None, *published), strict=True):
            sys.stderr.write(f"round {turn + 1} of {rounds}: {row.name}\n")
            if manifest is None:
                _time_pytorch(row, target, seconds, batches)
            else:
                _time_served(row, repository, manifest, seconds, batches)
    return rows


def _row(repository: Path, manifest: Manifest) -> Row:
    gate = manifest["gate"]
    return Row(
        manifest["id"],
        size_bytes(repository, manifest),
        (gate["image"]["min_cosine"], gate["text"]["min_cosine"]),
        _accuracy(manifest, "accuracy"),
    )


def _accuracy(manifest: Manifest, name: str) -> float | None:
    zero_shot = manifest["gate"]["zero_shot"]
    return None if zero_shot is None else float(zero_shot[name])


def _time_pytorch(row: Row, target: Target, seconds: float, batches: Sequence[int]) -> None:
    options = ["--json", "--seconds", str(seconds), "--batches", *map(str, batches)]
    command = [sys.executable, "-m", "export.torch_row", *target.arguments, *options]
    # Spinning OpenMP threads make PyTorch many times slower wherever a core is busy otherwise.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(  # noqa: S603 (ours)
        command, check=False, stdout=subprocess.PIPE, env=environment
    )
    if done.returncode:
        raise BenchmarkError(f"PyTorch cannot run {target.model}; see the message above")
    found: dict[str, Any] = json.loads(done.stdout)
    row.size_bytes = found["size_bytes"]
    row.memory_bytes.append(found["memory_bytes"])
    for tower in TOWERS:
        row.add(tower, {int(batch): taken for batch, taken in found["seconds"][tower].items()})


def _time_served(
    row: Row, repository: Path, manifest: Manifest, seconds: float, batches: Sequence[int]
) -> None:
    with Served(repository, manifest) as served:
        row.add("image", served.image_times(batches, seconds))
        row.add("text", served.text_times(batches, seconds))
        row.memory_bytes.append(served.memory())


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, one row per variant, PyTorch first."""
    head = [
        "model", "size, MB", "lowest cosine, image / text", "zero-shot, %",
        *(f"{t}: p50 / p99 at batch 1, ms" for t in TOWERS),
        *(f"{t}s/s at batch {' / '.join(map(str, BATCHES[1:]))}" for t in TOWERS),
        "memory, MB",
    ]  # fmt: skip
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        f"{row.size_bytes / 1e6:.1f}",
        " / ".join(f"{cosine:.6f}" for cosine in row.min_cosines or ()) or NONE,
        NONE if row.zero_shot is None else f"{100 * row.zero_shot:.1f}",
        *(_joined([row.percentile(tower, p) for p in (50, 99)]) for tower in TOWERS),
        *(_joined([row.per_second(tower, n) for n in BATCHES[1:]]) for tower in TOWERS),
        f"{max(row.memory_bytes) / 1e6:.0f}" if row.memory_bytes else NONE,
    ]


def _joined(values: Iterable[float | None]) -> str:
    return " / ".join(NONE if value is None else _short(value) for value in values)


def _short(value: float) -> str:
    """With three digits or more."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The figures of the table, and those that it has no room for."""
    return [
        {
            "name": row.name,
            "size_bytes": row.size_bytes,
            "min_cosines": row.min_cosines,
            "zero_shot_accuracy": row.zero_shot,
            "memory_bytes": row.memory_bytes,
            "towers": {
                tower: {
                    "p50_ms": row.percentile(tower, 50),
                    "p99_ms": row.percentile(tower, 99),
                    "items_per_second": {n: row.per_second(tower, n) for n in row.seconds[tower]},
                    "calls": {n: len(taken) for n, taken in row.seconds[tower].items()},
                }
                for tower in TOWERS
            },
        }
        for row in rows
    ]


def machine() -> str:
    """What this runs on, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores; Python {platform.python_version()}"


def write(folder: Path, target: Target, rows: Sequence[Row], seconds: float) -> Path:
    """Writes `ladder-<model>.md` and `.json` into a folder; returns the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    title = " ".join(filter(None, (target.model, target.pretrained)))
    path = folder / f"ladder-{target.slug}.md"
    path.write_text(
        f"# The precision ladder of {title}\n\nOn {machine()}; {seconds:g} s for each figure and "
        f"round.\n\n{table(rows)}\n\n{NOTES}\n",
        encoding="utf-8",
    )
    content = {"model": target.model, "pretrained": target.pretrained, "machine": machine(),
               "seconds": seconds, "rows": as_json(rows)}  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports, measures, prints and writes; 1 where something failed."""
    given = _parser().parse_args(arguments)
    target = Target(given.model, given.pretrained, given.tokenizer)
    try:
        published = export(target, given.repository, _export_arguments(given, target))
        rows = climb(target, given.repository, published, given.seconds, given.rounds)
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    path = write(given.output, target, rows, given.seconds)
    sys.stdout.write(f"{machine()}\n\n{table(rows)}\n\n{NOTES}\n\nwritten to {path}\n")
    return 0


def _export_arguments(given: argparse.Namespace, target: Target) -> list[str]:
    options: list[tuple[str, object]] = [
        *(("--precision", precision) for precision in given.precision or PRECISIONS),
        *(("--runtime", runtime) for runtime in given.runtime),
        ("--report", given.output / target.slug),
        ("--evaluate", given.evaluate),
        ("--evaluate-texts", given.evaluate_texts),
        ("--calibrate-images", given.calibrate_images),
        ("--calibrate-texts", given.calibrate_texts),
    ]
    words = [str(word) for option in options if option[1] is not None for word in option]
    return [*words, *given.export_argument]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ladder", description=__doc__)
    add = parser.add_argument
    # fmt: off
    add("--model", required=True, help="as for `python -m export`")
    add("--pretrained", metavar="TAG|FILE", help="weights")
    add("--tokenizer", type=Path, metavar="DIR", help="folder with a Hugging Face tokenizer")
    add("--repository", type=Path, default=Path("model_repository"), metavar="DIR",
        help="where to publish the variants (default: %(default)s)")
    add("--output", type=Path, default=Path("reports"), metavar="DIR",
        help="where to write the table (default: %(default)s)")
    add("--seconds", type=float, default=3.0,
        help="length of each measurement (default: %(default)s)")
    add("--rounds", type=int, default=2, metavar="N",
        help="how often to measure each variant (default: %(default)s)")
    add("--precision", action="append", choices=PRECISIONS,
        help="only this one; may be repeated (default: all)")
    add("--runtime", action="append", default=[], choices=("onnxruntime", "tensorrt"),
        help="may be repeated (default: onnxruntime)")
    add("--evaluate", default="drawn", metavar="DIR|drawn",
        help="labelled pictures to measure accuracy on (default: the demo's scenes)")
    add("--evaluate-texts", metavar="FILE", help="captions to measure on")
    add("--calibrate-images", default="drawn", metavar="DIR|drawn",
        help="pictures that INT8 takes its ranges from (default: the demo's scenes)")
    add("--calibrate-texts", metavar="FILE", help="captions for that")
    add("--export-argument", action="append", default=[], metavar="ARG",
        help="passed on to `python -m export`, such as --export-argument=--max-batch=32")
    # fmt: on
    return parser


if __name__ == "__main__":
    sys.exit(main())
