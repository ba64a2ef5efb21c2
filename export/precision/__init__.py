"""Converts FP32 graphs to FP16, BF16 and INT8.

May import `export.errors`.
"""
