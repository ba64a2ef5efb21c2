"""The contracts: `v1/clip.proto` with the code generated from it, and `openapi.json` of REST.

Imports nothing of ours.
"""
