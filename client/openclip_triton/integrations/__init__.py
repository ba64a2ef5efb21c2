"""Embedding classes for third-party frameworks, on `Client`; each needs the extra of its name.

May import `openclip_triton.client`.
"""
