"""What `python -m benchmarks.compare` compares, all of it running at the same time."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from urllib.request import urlopen

from benchmarks.systems import processes, services
from benchmarks.systems.published import Manifest, packed, weights_bytes
from benchmarks.traffic.requests import LABEL_SET, labels

OURS, PADDED, TORCH = "ours", "padded", "pytorch"  # their names in the results
LABELS = 1_000
MB = 10**6
LINE = re.compile(r'^(nv_inference_count|nv_inference_exec_count)\{model="([^"]+)",[^}]*\} (\S+)')


@dataclass(frozen=True, slots=True)
class Systems:
    """The services under comparison."""

    manifest: Manifest
    repository: Path
    triton: services.Triton  # behind our service
    served: dict[str, services.Gateway]  # by system: ours, and those that are not left out

    def memory(self) -> dict[str, float]:
        """Megabytes of our service's processes, and of the weights that Triton must hold."""
        gateway = processes.tree(self.served[OURS].pid)
        return {
            "gateway_mb": max(processes.resident_bytes(pid) for pid in gateway) / MB,
            "triton_mb": processes.proportional_bytes(self.triton.pid) / MB,
            "weights_mb": weights_bytes(self.repository, self.manifest) / MB,
        }


def start(
    repository: Path, manifest: Manifest, settings: Mapping[str, str], stack: ExitStack
) -> Systems:
    """Starts our service, until the stack is closed; with packed text it is the padded one, too.

    Raises:
        BenchmarkError: Something did not start.
    """
    folder = Path(stack.enter_context(TemporaryDirectory()))
    label_set = {"name": LABEL_SET, "labels": labels(LABELS), "templates": "plain"}
    (folder / "labels.yaml").write_text(json.dumps(label_set))  # JSON is YAML
    ours = {"GATEWAY_LABEL_SETS": str(folder), **settings}
    triton = stack.enter_context(services.triton(repository, manifest["id"]))
    gateway = services.gateway(repository, manifest["id"], triton.grpc, ours)
    served = {OURS: stack.enter_context(gateway)}
    if packed(manifest):
        served[PADDED] = served[OURS]  # sent other captions: `benchmarks.compare`
    return Systems(manifest, repository, triton, served)


@dataclass(frozen=True, slots=True)
class Counts:
    """What some Triton models have executed since they were loaded, by its own counters."""

    items: float
    executions: float

    @classmethod
    def read(cls, metrics_url: str, models: Iterable[str]) -> Self:
        """Reads them from Triton's metrics."""
        with urlopen(metrics_url, timeout=10) as answer:  # noqa: S310 (a Triton of ours)
            return cls.parse(answer.read().decode(), models)

    @classmethod
    def parse(cls, text: str, models: Iterable[str]) -> Self:
        """From the text of the metrics."""
        wanted = set(models)
        found = [match for line in text.splitlines() if (match := LINE.match(line))]
        totals = {"nv_inference_count": 0.0, "nv_inference_exec_count": 0.0}
        for match in found:
            if match[2] in wanted:
                totals[match[1]] += float(match[3])
        return cls(totals["nv_inference_count"], totals["nv_inference_exec_count"])

    def mean_batch_since(self, before: "Counts") -> float:
        """Items per execution since then; not a number where nothing was executed."""
        executions = self.executions - before.executions
        return (self.items - before.items) / executions if executions else float("nan")
