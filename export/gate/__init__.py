"""Measures a variant against OpenCLIP in PyTorch FP32, and refuses one that misses a threshold.

May import `export.source`, `export.precision`, `export.demo`, `export.storage`, `export.errors`,
`gateway.models`, `gateway.images` and `gateway.errors`.
"""
