"""The base of the shapes: the number of users follows from the elapsed part of the run time."""

from abc import abstractmethod

from locust import LoadTestShape


class Timed(LoadTestShape):  # type: ignore[misc]  # Locust is untyped here
    """Ends with the run time."""

    abstract = True
    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """The number of users now, and the number that may start a second; None at the end."""
        options = self.runner.environment.parsed_options
        done = self.get_run_time() / (options.run_time or 60)
        if done >= 1:
            return None
        return self.users(options.num_users, done), float(options.num_users)

    @abstractmethod
    def users(self, most: int, done: float) -> int:
        """The number of users, at most `most`, when `done` (0 to 1) of the run time is over."""
