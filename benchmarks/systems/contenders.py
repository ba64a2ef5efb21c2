"""What `python -m benchmarks.compare` compares, all of it running at the same time."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.systems import processes, services
from benchmarks.systems.published import Manifest, packed, weights_bytes
from benchmarks.traffic.requests import LABEL_SET, labels

OURS, PADDED, TORCH = "ours", "padded", "pytorch"  # their names in the results
LABELS = 1_000
MB = 10**6


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
