"""Copies published models to and from folders, buckets, web servers and the Hugging Face hub.

May import `export.publish`, `export.tensorrt` and what they may import. Needs no PyTorch.
"""
