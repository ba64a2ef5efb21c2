"""Long runs over many files or captions: inputs, progress, finished parts, output layouts.

May import all of `openclip_triton` but its command.
"""
