"""What a job reads: image files, tars, parquet, CSV and lines, each cut into partitions."""
