"""Converts OpenCLIP checkpoints to models that Triton serves."""
