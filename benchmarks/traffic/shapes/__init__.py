"""Loads that change over time, for Locust, which expects one shape to a file."""
