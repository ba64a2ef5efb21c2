"""The services that `python -m benchmarks.peers` measures, with the cost of their processes."""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.systems import processes, services
from benchmarks.systems.published import Manifest
from benchmarks.traffic.connection import Target
from benchmarks.traffic.errors import BenchmarkError

OURS, TORCH, INFINITY = "openclip-triton", "PyTorch and FastAPI", "infinity"
ARCHITECTURE = "ViT-B-32"  # of `benchmarks.systems.clip_folder`
MB = 10**6
VERSIONS = """
from importlib.metadata import version
for name in ("infinity-emb", "torch", "transformers", "open_clip_torch"): print(name, version(name))
"""


@dataclass(frozen=True, slots=True)
class Service:
    """One running service."""

    target: Target
    roots: tuple[int, ...]  # its processes are these and all that they started

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        return sum(processes.tree_cpu_seconds(root) for root in self.roots)

    def memory_mb(self) -> float:
        """Memory of all its processes; what several share counts once."""
        return sum(processes.proportional_bytes(root) for root in self.roots) / MB


def start(
    repository: Path,
    manifests: Sequence[Manifest],
    python: Path,
    settings: Mapping[str, str],
    stack: ExitStack,
) -> dict[str, Service]:
    """Starts ours, one for each precision, and both peers, by name, until the stack is closed.

    Args:
        repository: Where our models are.
        manifests: Of a ViT-B-32, in one precision or several.
        python: Of an environment with the peers.
        settings: Further `GATEWAY_` variables. The text cache is off.
        stack: Stops all of it when closed.

    Raises:
        BenchmarkError: The model has another architecture, or something did not start.
    """
    for manifest in manifests:
        if manifest["open_clip_name"] != ARCHITECTURE:
            raise BenchmarkError(f"{manifest['id']}: the peers serve {ARCHITECTURE}; export that")
    started = {}
    own = {"GATEWAY_TEXT_CACHE_BYTES": "0", **settings}
    for manifest in manifests:
        model = manifest["id"]
        triton = stack.enter_context(services.triton(repository, model))
        gateway = stack.enter_context(services.gateway(repository, model, triton.grpc, own))
        pids = gateway.pid, triton.pid
        started[f"{OURS} {manifest['precision']}"] = Service(gateway.target, pids)
    torch = stack.enter_context(services.torch_server(python, [ARCHITECTURE]))
    folder = Path(stack.enter_context(TemporaryDirectory()))
    _run(python, "-m", "benchmarks.systems.clip_folder", str(folder))
    infinity = stack.enter_context(services.infinity(python, folder))
    started[TORCH] = Service(torch.target, (torch.pid,))
    started[INFINITY] = Service(infinity.target, (infinity.pid,))
    return started


def versions(python: Path) -> dict[str, str]:
    """Of the peers' packages.

    Raises:
        BenchmarkError: One is not installed.
    """
    lines = _run(python, "-c", VERSIONS).splitlines()
    return {name: version for name, _, version in (line.partition(" ") for line in lines)}


def _run(python: Path, *words: str) -> str:
    done = subprocess.run(  # noqa: S603 (the project's own program)
        [str(python), *words], cwd=services.ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{python} {words[1]}: {done.stderr.strip()[-2000:]}")
    return done.stdout
