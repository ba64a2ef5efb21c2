"""Crash-safe local files, and remote folders, buckets and web servers.

May import `export.errors` alone. Needs no PyTorch.
"""
