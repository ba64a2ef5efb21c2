"""Authentication of callers: API keys, their quotas, and TLS.

May import `gateway.telemetry`, `gateway.images`, `gateway.models` and `gateway.errors`.
"""
