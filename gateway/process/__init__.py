"""Several gateway processes behind one pair of ports: start, restart, signals, end.

May import everything of the gateway.
"""
