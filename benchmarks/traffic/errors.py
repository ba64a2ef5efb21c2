"""The error of a benchmark."""


class BenchmarkError(Exception):
    """A benchmark, or a program that it starts, cannot run; the message is for the user."""
