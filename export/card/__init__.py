"""The model card that is published beside a model.

May import `gateway.models` alone. Needs no PyTorch.
"""
