"""Runs the service: both processes on one machine (stack), Compose and Kubernetes.

May import `server`.
"""
