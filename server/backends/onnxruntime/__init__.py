"""The ``onnxruntime`` backend; Triton loads ``model.py``."""
