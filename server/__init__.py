"""Runs a real Triton Inference Server without Docker and without a GPU.

`python -m server` runs it in the foreground; `server.launcher.TritonServer` is a context manager
that does the same. `backends` has the `onnxruntime` and `openvino` backends. Imports nothing of
ours.
"""
