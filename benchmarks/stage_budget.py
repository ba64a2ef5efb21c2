"""`python -m benchmarks.stage_budget`: CPU milliseconds of the gateway for each request.

The encoders are replaced by ones that do no work (`benchmarks.systems.null_encoder`), so that the
machine has time for the gateway, and what is measured is the gateway's own.

1. Totals: user and kernel time of the gateway's processes from /proc, before and after a number of
   requests, divided by that number. Nothing is installed in the gateway for it.
2. Stages: the same load on a gateway that runs under `benchmarks.systems.sampler`, which puts the
   main thread's CPU time down to the code that it is in, and counts other threads apart. A sample
   is of the stage of the innermost frame that belongs to one. The shares are then applied to the
   totals, so that what the sampler itself costs is in none of them.
3. Totals once more with several worker processes.
4. Decoding and resizing alone, on all cores at once, in this program: what an image must cost.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import program
from benchmarks.reporting.results import SUFFIX, Row, collect
from benchmarks.reporting.stages import ALONE, checks, functions, hottest, shares, table
from benchmarks.systems import decoding, services
from benchmarks.systems.gateway_cpu import medians_ms, profiled
from benchmarks.systems.null_encoder import write_repository
from benchmarks.systems.published import Manifest, find

KINDS = ("rest-text", "grpc-text", "rest-image", "rest-image-base64", "grpc-image")
WORKERS = 2
WORKER_KINDS = ("rest-text", "grpc-text")  # of which it is seen that more workers cost no more
CALLS = "2"  # the gateway's default: as before a GPU, another call may be under way meanwhile
FUNCTIONS = 15  # the hottest, that are kept of each kind


def measure(
    repository: Path, manifest: Manifest, kinds: Sequence[str], seconds: float,
    repeats: int, settings: Mapping[str, str],
) -> Iterator[Row]:  # fmt: skip
    """Totals and stages of every kind.

    Raises:
        BenchmarkError: A program did not start, or requests failed.
    """
    yield Row({"kind": ALONE}, {"cpu_ms": decoding.cpu_ms(manifest, seconds)})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        null = folder / "repository"
        write_repository(repository, manifest, null)
        triton = stack.enter_context(services.triton(null, manifest["id"]))
        start = (null, manifest["id"], triton.grpc)
        settings = {"GATEWAY_TRITON_CALLS": CALLS, **settings}
        with services.gateway(*start, settings) as served:
            whole = medians_ms(served, kinds, seconds, repeats)
        for kind in kinds:
            yield Row({"kind": kind}, {"cpu_ms": whole[kind]})
        file = folder / "profile.json"
        launcher = ("-m", "benchmarks.systems.sampler", str(file), "gateway")
        with services.gateway(*start, settings, launcher) as served:
            for kind in kinds:
                yield from _stages(served, kind, seconds, file, whole[kind])
        several = {**settings, "GATEWAY_WORKERS": str(WORKERS)}
        with services.gateway(*start, several) as served:
            both = [kind for kind in WORKER_KINDS if kind in kinds]
            for kind, cost in medians_ms(served, both, seconds, repeats, WORKERS).items():
                yield Row({"kind": kind, "workers": WORKERS}, {"cpu_ms": cost})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns the exit code."""
    given = program.shortened(_parser().parse_args(arguments))
    manifest = find(given.repository, given.model)
    settings = services.settings(given.env)
    rows = list(
        measure(given.repository, manifest, given.kinds, given.seconds, given.repeats, settings)
    )
    made = checks(rows)
    print(f"{table(rows)}\n\nDecoding and resizing alone: {rows[0].values['cpu_ms']:.2f} ms\n")
    print(functions(rows) + "\n" if given.functions else "")
    for each in made:
        print(f"{'pass' if each.passed else 'MISS'}  {each.name}: {each.value:.2f}")
    results = collect("stage_budget", manifest, vars(given), rows, made)
    path = results.write(given.output / f"stage_budget{SUFFIX}")
    print(f"\nWritten to {path}")
    return 0


def _stages(
    served: services.Gateway, kind: str, seconds: float, file: Path, whole: float
) -> Iterator[Row]:
    profile = profiled(served, kind, seconds, file)
    for name, share in shares(profile).items():
        yield Row({"kind": kind, "stage": name}, {"cpu_ms": whole * share, "share": share})
    for name, share in hottest(profile, FUNCTIONS):
        yield Row({"kind": kind, "function": name}, {"share_of_main_thread": share})


def _parser() -> argparse.ArgumentParser:
    made = program.parser("stage_budget", __doc__)
    program.add_model(made)
    add = made.add_argument
    add("--kinds", nargs="+", default=KINDS, metavar="KIND", help=f"default: {' '.join(KINDS)}")
    program.add_length(made, seconds=5.0, repeats=3)
    services.add_env(made)
    add("--functions", action="store_true", help="print the functions that use most, too")
    program.add_output(made)
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
