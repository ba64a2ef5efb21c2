"""What a job writes: one part for each partition, each file complete or not at all."""
