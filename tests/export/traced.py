"""`python -m tests.export.traced FOLDER MODULE ...` runs a module; the folder keeps its traces."""

import os
import runpy
import sys
import traceback
from pathlib import Path

import torch

from tests.export.traces import Traces


def _run(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    del sys.argv[0]
    torch.onnx.export = Traces(Path(sys.argv.pop(0))).export  # type: ignore[assignment]
    code = _run(sys.argv[0])
    sys.stdout.flush()
    sys.stderr.flush()
    # At a usual end ONNX Runtime waits for a thread that a fork does not have.
    os._exit(code)
