"""Converts OpenCLIP checkpoints to models that Triton serves.

May import `gateway.models`, `gateway.images` and `gateway.errors`: parity is proved on the code
that serves.
"""
