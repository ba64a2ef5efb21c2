"""Builds TensorRT plans from typed ONNX graphs.

May import `export.errors` and `gateway.models`.
"""
