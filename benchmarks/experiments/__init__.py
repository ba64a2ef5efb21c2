"""Single questions, each a program: `python -m benchmarks.experiments.NAME`.

May import everything of the benchmarks but the programs.
"""
