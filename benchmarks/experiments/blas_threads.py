"""What numpy's threads cost: the CPU time of one image against 1,000 labels, at 100 a second.

Each row is a process of its own, since OpenBLAS reads its environment once.
"""

import argparse
import os
import subprocess
import sys

CHILD = """
import sys, time
import numpy as np

images, labels = np.ones((1, 512)), np.ones((1000, 512))
images @ labels.T
requests = int(sys.argv[1])
before = time.process_time()
for _ in range(requests):
    images @ labels.T
    time.sleep(0.01)
print((time.process_time() - before) / requests * 1000)
"""


def measured(threads: str, requests: int) -> float:
    """CPU milliseconds a request; `threads` as OPENBLAS_NUM_THREADS has it, empty for its own."""
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    if threads:
        environment["OPENBLAS_NUM_THREADS"] = threads
    command = [sys.executable, "-c", CHILD, str(requests)]
    ran = subprocess.run(  # noqa: S603 (the project's own program)
        command, env=environment, capture_output=True, text=True, check=True
    )
    return float(ran.stdout)


def main() -> None:
    """Prints a row for one thread and for as many as numpy takes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.blas_threads", description=__doc__
    )
    parser.add_argument("--requests", type=int, default=300, metavar="N", help="how many of each")
    requests = parser.parse_args().requests
    print("| OPENBLAS_NUM_THREADS | CPU ms a request |\n|---|--:|")
    for threads in ("1", ""):
        print(f"| {threads or 'unset'} | {measured(threads, requests):.2f} |")


if __name__ == "__main__":
    main()
