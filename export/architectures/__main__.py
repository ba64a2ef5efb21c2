"""`python -m export.architectures`: tries to export every configuration of OpenCLIP.

Each has random weights and goes through the stages of an export in FP32, on two pictures and three
texts, in a process of its own with a bound on time and memory. The results are kept, so that a run
can be continued, and written as a table.
"""

import argparse
import sys
from pathlib import Path

import open_clip
import torch
from torch import nn

from export.architectures.attempt import try_bounded
from export.architectures.cut import BLOCKS
from export.architectures.page import page
from export.architectures.tried import Tried
from export.source import graph

PAGE = Path("docs/architectures.md")
RESULTS = Path("reports/architectures")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = _parser().parse_args(arguments)
    given.results.mkdir(parents=True, exist_ok=True)
    known = open_clip.list_models()
    files = {name: given.results / f"{name}.json" for name in known}
    wanted = given.names or [name for name in known if not files[name].exists()]
    if wanted:  # what the first trace loads, each try has by its fork
        torch.set_num_threads(1)
        graph.trace(nn.Linear(2, 2), torch.zeros(2, 2), "features")
    for name in wanted:
        tried = try_bounded(name, given.gigabytes, given.seconds, cut=given.cut)
        tried.write(files[name])
        sys.stderr.write(f"{name}: {tried.outcome}\n")
    results = {name: Tried.read(file) for name, file in files.items() if file.exists()}
    given.page.write_text(page(results), encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.architectures", description=__doc__)
    add = parser.add_argument
    # fmt: off
    add("names", nargs="*", metavar="NAME", choices=[*open_clip.list_models(), []],
        help="configurations to try, again if need be (default: those without a result)")
    add("--cut", action="store_true",
        help=f"keep only {BLOCKS} of each row of equal blocks: the same kinds of layers")
    add("--gigabytes", type=float, default=9, metavar="GB",
        help="memory of one try (default: %(default)s)")
    add("--seconds", type=float, default=3600, metavar="S",
        help="time of one try (default: %(default)s)")
    add("--results", type=Path, default=RESULTS, metavar="DIR",
        help="keeps the results (default: %(default)s)")
    add("--page", type=Path, default=PAGE, metavar="FILE",
        help="where the table goes (default: %(default)s)")
    # fmt: on
    return parser


if __name__ == "__main__":
    sys.exit(main())
