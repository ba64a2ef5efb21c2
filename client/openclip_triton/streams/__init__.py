"""Streams of any number of items: their state, their exchange with the service, and its I/O.

May import `openclip_api` and `openclip_triton.arguments`, `openclip_triton.convert`,
`openclip_triton.values` and `openclip_triton.errors`.
"""
