"""The REST edge: HTTP bytes -> requests of `gateway.pipeline`, and their results -> bytes.

May import `gateway.pipeline`, `gateway.operations`, `gateway.access`, `gateway.telemetry` and what
they may import; never `gateway.rpc`.
"""
