"""Results of benchmarks and the machine that they ran on, in one JSON schema."""

import functools
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from benchmarks.systems.published import Manifest
from benchmarks.traffic.errors import BenchmarkError

SUFFIX = ".benchmark.json"
ROOT = Path(__file__).parents[2]
PACKAGES = (
    "fastapi", "grpcio", "httptools", "locust", "numpy", "nvidia-pytriton", "onnxruntime",
    "onnxruntime-gpu", "open_clip_torch", "orjson", "pillow", "tensorrt", "tokenizers", "torch",
    "tritonclient", "uvicorn", "uvloop",
)  # fmt: skip

Label = str | int


def ratio(one: float, other: float) -> float:
    """The quotient; NaN if the divisor is zero because nothing was measured."""
    return one / other if other else float("nan")


class ResultsError(BenchmarkError):
    """A file of results cannot be read; the message names it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: its labels and its figures."""

    labels: dict[str, Label]  # such as system, kind, concurrency
    values: dict[str, float]  # such as per_second, p50_ms

    def __str__(self) -> str:
        """The row in one line."""
        what = ", ".join(str(value) for value in self.labels.values())
        return f"{what}: " + "  ".join(f"{name} {v:.4g}" for name, v in self.values.items())


@dataclass(frozen=True, slots=True)
class Check:
    """A figure with its target."""

    name: str
    value: float
    target: float
    at_least: bool = True  # else at most

    @property
    def passed(self) -> bool:
        """Whether the target is reached; a missing figure (NaN) fails."""
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True, slots=True)
class Results:
    """All results of one run of one program.

    Attributes:
        program: Its name, such as `compare`.
        created: Seconds since the epoch.
        machine: The machine: `cpu`, `cores`, `memory_gb`, `kernel`, `python`.
        versions: Versions of the relevant packages that are installed.
        model: `id`, `open_clip_name`, `precision` and `fingerprint`; empty if none is served.
        commit: Of the repository; ends in `+` if files were changed.
        settings: The options of the program.
        rows: The measurements.
        checks: Figures with targets.
    """

    program: str
    created: int
    machine: dict[str, Label]
    versions: dict[str, str]
    model: dict[str, str]
    commit: str
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]
    schema_version: Literal[1]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of results.

        Raises:
            ResultsError: It cannot be read, or is of another schema.
        """
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ResultsError(f"{path}: not a file of results: {error}") from error

    def write(self, path: Path) -> Path:
        """Write the results as JSON, and return the path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path


def collect(
    program: str,
    manifest: Manifest | None,
    settings: Mapping[str, Any],
    rows: Iterable[Row],
    checks: Iterable[Check] = (),
    others: Mapping[str, str] | None = None,
) -> Results:
    """The results of a run that ends now, on this machine.

    `others` are versions of packages of another environment.
    """
    keys = ("id", "open_clip_name", "precision", "fingerprint")
    return Results(
        program=program,
        created=int(time.time()),
        machine=machine(),
        versions={**versions(), **(others or {})},
        model={key: str(manifest[key]) for key in keys} if manifest else {},
        commit=commit(),
        settings={key: str(v) if isinstance(v, Path) else v for key, v in sorted(settings.items())},
        rows=tuple(rows),
        checks=tuple(checks),
        schema_version=1,
    )


@functools.cache
def machine() -> dict[str, Label]:
    """Describe this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(pages / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the relevant packages that are installed."""
    installed = {found.name: found.version for found in metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


@functools.cache
def commit() -> str:
    """The checked-out commit, with `+` if files differ from it; empty without git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 (fixed words)

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
