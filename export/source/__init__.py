"""Converts an OpenCLIP model to two encoders as PyTorch modules and ONNX graphs, and a tokenizer.

May import `export.errors` and `gateway.models`.
"""
