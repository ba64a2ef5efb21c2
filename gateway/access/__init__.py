"""Who may call: API keys, their quotas, and TLS.

May import `gateway.telemetry`, `gateway.models` and `gateway.errors`.
"""
