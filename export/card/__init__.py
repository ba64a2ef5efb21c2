"""The model card that is published with a model.

May import `gateway.models` alone. Needs no PyTorch.
"""
