"""The command `openclip-triton`: options, subcommands, printing.

Imports `bulk` and the library; nothing imports it but `__main__`.
"""
