"""A quiet load of an eighth of `--users`, and in the middle third of the run time all of them."""

from benchmarks.traffic.shapes.timed import Timed

QUIET = 8
SPIKE = (1 / 3, 2 / 3)  # parts of the run time


class Spike(Timed):
    """Quiet, then all at once, then quiet again."""

    def users(self, most: int, done: float) -> int:
        """See `Timed.users`."""
        return most if SPIKE[0] <= done < SPIKE[1] else max(1, most // QUIET)
