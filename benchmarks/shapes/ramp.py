"""A load that rises step by step to `--users`, and stays there for the last fifth of the run."""

from locust import LoadTestShape

STEPS = 8
RISING = 0.8  # of the run time


class Ramp(LoadTestShape):  # type: ignore[misc]  # Locust is untyped here
    """Rises in equal steps."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """How many users there should be now, and how many may start a second; None at the end."""
        options = self.runner.environment.parsed_options
        done = self.get_run_time() / (options.run_time or 60)
        if done >= 1:
            return None
        step = min(STEPS, int(done / RISING * STEPS) + 1)
        return max(1, round(options.num_users * step / STEPS)), float(options.num_users)
