"""Python-based Triton backends, each a folder that Triton finds by its name.

Imports nothing of ours.
"""
