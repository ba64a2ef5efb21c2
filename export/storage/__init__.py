"""Crash-safe local files; remote folders, buckets and web servers, and data sets in them.

May import `export.errors` alone. Needs no PyTorch.
"""
