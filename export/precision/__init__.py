"""An FP32 graph -> FP16 and INT8 graphs.

May import `export.errors`.
"""
