"""Tries to export every configuration of OpenCLIP.

May import all of `export` but its programs, and what it may import; nothing imports it.
"""
