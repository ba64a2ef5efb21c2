"""The page at `/` where the service can be tried in a browser.

Imports nothing of ours.
"""
