"""Tries to export every configuration of OpenCLIP.

Used by nothing else; may import all of `export` but its programs.
"""
