"""Inputs of a job: image files, tars, parquet, CSV and lines, each cut into partitions."""
