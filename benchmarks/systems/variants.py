"""The variants of a model, exported by `python -m export`."""

import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.systems.published import Manifest, manifests
from benchmarks.traffic.errors import BenchmarkError

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
REFUSED = 2  # exit code of an export of which a variant fell short


@dataclass(frozen=True, slots=True)
class Target:
    """The model, as `python -m export` takes it."""

    model: str
    pretrained: str | None = None
    tokenizer: Path | None = None
    text_config: Path | None = None

    @property
    def arguments(self) -> list[str]:
        """For the command lines of `export` and `export.torch_row`."""
        pretrained = ["--pretrained", self.pretrained] if self.pretrained else []
        tokenizer = ["--tokenizer", str(self.tokenizer)] if self.tokenizer else []
        text_config = ["--text-config", str(self.text_config)] if self.text_config else []
        return [self.model, *pretrained, *tokenizer, *text_config]

    @property
    def slug(self) -> str:
        """The model's name as a file name."""
        name = Path(self.model).stem if "/" in self.model else self.model
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


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
