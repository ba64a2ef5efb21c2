"""Black-box measurements of a running service.

May import `openclip_api`, `server`, `gateway.images` and `gateway.models`.
"""
