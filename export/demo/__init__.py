"""The demo model: drawn scenes, their captions, and its training."""
