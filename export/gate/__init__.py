"""Measures a variant against OpenCLIP in PyTorch FP32, and refuses one that misses a threshold.

May import `export.source`, `export.precision`, `export.demo`, `export.storage`,
`gateway.models` and `gateway.images`.
"""
