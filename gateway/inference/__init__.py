"""Encoders in Triton: batching, the client protocol and its gRPC form, several servers.

May import `gateway.models` and `gateway.errors`.
"""
