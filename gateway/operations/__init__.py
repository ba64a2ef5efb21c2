"""Readiness, rolling updates, batches in the background, and the signals that an operator sends.

May import `gateway.pipeline` and what it may import.
"""
