"""Results of benchmarks: files, tables, plots, targets.

May import `benchmarks.systems` and what it may import, `gateway.images` and `gateway.models`.
"""
