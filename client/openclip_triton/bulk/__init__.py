"""Long runs over many files or captions: inputs, progress, finished parts, output layouts.

Imports the library above it, and nothing of the command.
"""
