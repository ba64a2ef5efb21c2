"""Converts FP32 graphs to FP16, BF16, INT8 and FP8.

May import `export.errors` and `gateway.models`.
"""
