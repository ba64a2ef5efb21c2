"""Outputs of a job: one part per partition; each file appears complete or not at all.

May import `openclip_triton.bulk` and what it may import.
"""
