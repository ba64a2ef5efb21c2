"""Records each request in metrics, logs and traces.

May import `gateway.models` and `gateway.errors`.
"""
