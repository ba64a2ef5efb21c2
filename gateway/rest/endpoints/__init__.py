"""A module for each thing that REST offers: what it takes, what it answers, and how it gets there.

May import the rest of `gateway.rest` and what it may import; `gateway.app` lists what is served.
"""
