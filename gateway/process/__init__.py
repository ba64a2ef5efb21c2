"""Several gateway processes behind one pair of ports: start, restart, signals, end.

May import all of `gateway`.
"""
