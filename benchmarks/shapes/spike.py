"""A quiet load of an eighth of `--users`, and in the middle third of the run time all of them."""

from locust import LoadTestShape

QUIET = 8
SPIKE = (1 / 3, 2 / 3)  # parts of the run time


class Spike(LoadTestShape):  # type: ignore[misc]  # Locust is untyped here
    """Quiet, then all at once, then quiet again."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """How many users there should be now, and how many may start a second; None at the end."""
        options = self.runner.environment.parsed_options
        done = self.get_run_time() / (options.run_time or 60)
        if done >= 1:
            return None
        spiking = SPIKE[0] <= done < SPIKE[1]
        users = options.num_users if spiking else max(1, options.num_users // QUIET)
        return users, float(options.num_users)
