"""Requests and the loops that send them.

May import `openclip_api`.
"""
