"""Typed ONNX graphs -> TensorRT plans.

May import `export.errors` and `gateway.models`.
"""
