"""What is recorded of each request: metrics, logs and traces.

May import `gateway.models` and `gateway.errors`.
"""
