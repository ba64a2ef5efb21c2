"""The gRPC edge: messages -> requests of `gateway.pipeline`, and their results -> messages.

May import `openclip_api`, `gateway.pipeline`, `gateway.operations`, `gateway.access`,
`gateway.telemetry` and what they may import; never `gateway.rest`.
"""
