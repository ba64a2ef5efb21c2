"""The systems under test, in processes of their own, and what they cost.

May import `benchmarks.traffic`.
"""
