"""Results of benchmarks: files, tables, plots, targets.

May import `benchmarks.systems` and what is below it.
"""
