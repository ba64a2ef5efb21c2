"""What benchmarks measured: results, tables, plots, targets.

May import `benchmarks.systems` and what is below it.
"""
