"""The command `openclip-triton`: options, subcommands, printing.

May import all of `openclip_triton`; nothing imports it but `__main__`.
"""
