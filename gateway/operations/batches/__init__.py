"""Batches: files of requests that run in the background, in a folder of their own.

The folder is the only state, so a batch continues after any end of the process. May import
`gateway.pipeline` and `gateway.errors`.
"""
