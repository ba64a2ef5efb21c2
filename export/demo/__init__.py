"""The demo model: drawn scenes, their captions, and its training.

Imports nothing of ours.
"""
