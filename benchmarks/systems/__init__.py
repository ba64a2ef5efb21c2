"""The systems under test, in separate processes, and their cost.

May import `benchmarks.program` and `benchmarks.traffic`.
"""
