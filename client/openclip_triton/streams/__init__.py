"""Streams of any number of items: their state, their exchange with the service, and its I/O.

Imports the library's arguments, values and errors, and nothing of its clients.
"""
