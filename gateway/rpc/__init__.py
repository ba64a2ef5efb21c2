"""The gRPC edge: messages -> requests of `gateway.pipeline`, and their results -> messages.

May import what `gateway.rest` may, and `openclip_api`; never `gateway.rest`.
"""
