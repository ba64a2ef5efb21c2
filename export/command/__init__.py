"""The command line of `python -m export`: its options, the stages that it runs, its summary.

May import all of `export` but its programs, and what it may import.
"""
