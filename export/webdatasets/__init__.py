"""Reads data sets in CLIP_benchmark's layout.

May import `export.storage` and `export.errors`. Needs no PyTorch.
"""
