"""Writes variants into a Triton model repository, atomically, and removes them.

May import `export.report`, `export.gate`, `export.tensorrt` and what they may import.
"""
