"""What is said of a model: its card, the report on its variants, PyTorch's row of `make ladder`.

May import `export.gate` and what it may import. A card needs no PyTorch.
"""
