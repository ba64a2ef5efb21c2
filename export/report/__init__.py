"""What is said of a model: its card, and the report on its variants with tables and plots.

May import `export.gate` and what is below it. A card needs no PyTorch.
"""
