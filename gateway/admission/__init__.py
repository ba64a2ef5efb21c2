"""Permits, the limits of one request, and the wait that a request can expect.

May import `gateway.models` and `gateway.errors`.
"""
