"""A client's bytes or URL -> uint8 pixels [S, S, 3]: sources, fetching, bounds, decoding.

May import `gateway.models` and `gateway.errors`.
"""
