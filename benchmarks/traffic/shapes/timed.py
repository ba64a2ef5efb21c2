"""What the shapes have in common: they tell users by the part of the run time that is over."""

from abc import abstractmethod

from locust import LoadTestShape


class Timed(LoadTestShape):  # type: ignore[misc]  # Locust is untyped here
    """Ends with the run time."""

    abstract = True
    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """How many users there should be now, and how many may start a second; None at the end."""
        options = self.runner.environment.parsed_options
        done = self.get_run_time() / (options.run_time or 60)
        if done >= 1:
            return None
        return self.users(options.num_users, done), float(options.num_users)

    @abstractmethod
    def users(self, most: int, done: float) -> int:
        """How many of at most so many there should be, when so much is over (from 0 to 1)."""
