"""What loading a graph leaves behind: memory (Pss) with and without giving it back.

Each row is a process of its own, so that one does not find what another has freed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

CHILD = """
import ctypes, json, re, sys
import onnxruntime as ort

def resident():
    return int(re.search(r"Pss:\\s+(\\d+)", open("/proc/self/smaps_rollup").read())[1]) * 1024 / 1e6

before = resident()
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
loaded = resident() - before
ctypes.CDLL(None).malloc_trim(0)
print(json.dumps([loaded, resident() - before]))
"""


def measured(graph: Path) -> tuple[float, float]:
    """Megabytes after loading, and after `malloc_trim`."""
    ran = subprocess.run(  # noqa: S603 - this Python, and a file of the caller
        [sys.executable, "-c", CHILD, str(graph)], capture_output=True, text=True, check=True
    )
    loaded, trimmed = json.loads(ran.stdout)
    return loaded, trimmed


def main() -> None:
    """Prints a row for each graph."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.load_memory", description=__doc__
    )
    parser.add_argument("graphs", nargs="+", type=Path, metavar="MODEL.onnx")
    print("| graph | file MB | loaded MB | trimmed MB |\n|---|--:|--:|--:|")
    for graph in parser.parse_args().graphs:
        loaded, trimmed = measured(graph)
        size = graph.stat().st_size / 1e6
        print(f"| {graph.parent.parent.name} | {size:.0f} | {loaded:.0f} | {trimmed:.0f} |")


if __name__ == "__main__":
    main()
