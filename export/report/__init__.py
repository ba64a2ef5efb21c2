"""The report on the variants of one model: tables, plots, and what was refused.

May import `export.publish` and what is below it.
"""
