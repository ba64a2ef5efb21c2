"""The demo model: scenes to draw, captions to read, and the training that ties them together."""
