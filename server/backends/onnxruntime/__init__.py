"""The ``onnxruntime`` backend; Triton loads ``model.py``.

May import `server.backends`.
"""
