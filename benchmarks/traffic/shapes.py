"""Varying loads for Locust; see `benchmarks/locustfile.py`."""

from collections.abc import Callable

from locust import LoadTestShape

STEPS, RISING = 8, 0.8  # steps of a ramp, and the fraction of the run time in which it rises
QUIET, SPIKE = 8, (1 / 3, 2 / 3)  # a spike's quiet load is 1 / QUIET; when all users are there


def ramp(most: int, done: float) -> int:
    """The number of users when `done` (0 to 1) of the run is over: equal steps, then all."""
    return max(1, round(most * min(STEPS, int(done / RISING * STEPS) + 1) / STEPS))


def spike(most: int, done: float) -> int:
    """As `ramp`: few, in the middle third all at once, then few again."""
    return most if SPIKE[0] <= done < SPIKE[1] else max(1, most // QUIET)


SHAPES: dict[str, Callable[[int, float], int]] = {"ramp": ramp, "spike": spike}


class Shape(LoadTestShape):  # type: ignore[misc]  # Locust is untyped here
    """The shape that `--shape` names; ends with the run time."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """The number of users now, and the number that may start a second; None at the end."""
        options = self.runner.environment.parsed_options
        done = self.get_run_time() / (options.run_time or 60)
        if done >= 1:
            return None
        return SHAPES[options.shape](options.num_users, done), float(options.num_users)
