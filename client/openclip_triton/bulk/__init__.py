"""Long runs over many files or captions: inputs, progress, what was done, output layouts.

Imports the library above it, and nothing of the command.
"""
