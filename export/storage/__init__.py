"""Files of this machine that survive a crash, and folders, buckets and web servers elsewhere.

May import `export.errors` alone. Needs no PyTorch.
"""
