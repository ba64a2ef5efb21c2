"""Turns OpenCLIP checkpoints into models that Triton serves."""
