"""Writes variants into a Triton model repository, atomically, and takes them back.

May import `export.gate`, `export.tensorrt` and what is below them.
"""
