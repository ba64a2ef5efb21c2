"""Loads that change over time, for Locust: one shape to a file, as Locust wants it."""
