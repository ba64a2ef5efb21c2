"""Runs a real Triton Inference Server without Docker and without a GPU.

``python -m server`` starts it in the foreground; ``server.launcher.TritonServer`` is the same
thing as a context manager. The ``onnxruntime`` backend it serves models with is in ``backends``.
"""
