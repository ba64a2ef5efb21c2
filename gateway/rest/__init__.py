"""The REST edge: HTTP bytes -> requests of `gateway.pipeline`, and their results -> bytes.

May import `gateway.pipeline`, `gateway.operations`, `gateway.admission`, `gateway.access`,
`gateway.telemetry` and what is below them; never `gateway.rpc`.
"""
