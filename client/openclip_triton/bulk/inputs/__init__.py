"""Inputs of a job: image files, tars, parquet, CSV and lines, each cut into partitions.

May import `openclip_triton.bulk` and what it may import.
"""
