"""Reports on the variants of one model: tables, plots and refusals.

May import `export.publish` and what is below it.
"""
