"""A load that rises step by step to `--users`, and stays there for the last fifth of the run."""

from benchmarks.traffic.shapes.timed import Timed

STEPS = 8
RISING = 0.8  # of the run time


class Ramp(Timed):
    """Rises in equal steps."""

    def users(self, most: int, done: float) -> int:
        """See `Timed.users`."""
        step = min(STEPS, int(done / RISING * STEPS) + 1)
        return max(1, round(most * step / STEPS))
