"""What `python -m benchmarks.compare` compares, all of it running at the same time."""

import json
from collections.abc import Mapping, Sequence
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
    served: Mapping[str, services.Gateway]  # by system: ours, and those that are not left out

    def memory(self) -> dict[str, float]:
        """Megabytes of our service's processes, and of the weights that Triton must hold."""
        gateway = processes.tree(self.served[OURS].pid)
        return {
            "gateway_mb": max(processes.resident_bytes(pid) for pid in gateway) / MB,
            "triton_mb": processes.proportional_bytes(self.triton.pid) / MB,
            "weights_mb": weights_bytes(self.repository, self.manifest) / MB,
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to start."""

    repository: Path
    manifest: Manifest
    without: Sequence[str]  # systems that are left out
    settings: Mapping[str, str]  # of the gateway
    torch_python: Path  # a Python with PyTorch
    pretrained: str | None  # PyTorch's weights; None: random


def start(wanted: Wanted, stack: ExitStack) -> Systems:
    """Starts all of it, until the stack is closed.

    Raises:
        BenchmarkError: Something did not start.
    """
    repository, manifest, model = wanted.repository, wanted.manifest, wanted.manifest["id"]
    folder = Path(stack.enter_context(TemporaryDirectory()))
    label_set = {"name": LABEL_SET, "labels": labels(LABELS), "templates": "plain"}
    (folder / "labels.yaml").write_text(json.dumps(label_set))  # JSON is YAML
    ours = {"GATEWAY_LABEL_SETS": str(folder), **wanted.settings}
    triton = stack.enter_context(services.triton(repository, model))
    served = {OURS: stack.enter_context(services.gateway(repository, model, triton.grpc, ours))}
    if PADDED not in wanted.without and packed(manifest):
        served[PADDED] = served[OURS]  # sent other captions: `benchmarks.compare`
    if TORCH not in wanted.without:
        words = [manifest["open_clip_name"]]
        words += ["--pretrained", wanted.pretrained] if wanted.pretrained else []
        served[TORCH] = stack.enter_context(services.torch_server(wanted.torch_python, words))
    return Systems(manifest, repository, triton, served)
