"""Batches of requests that run in the background: their files in a folder, and who runs them.

The folder is the only state, so batches go on after any end of the process.
"""
