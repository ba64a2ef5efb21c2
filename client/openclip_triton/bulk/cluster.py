"""Embeds partitions on a Ray cluster, one task per partition."""

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.manifests import Head, Settings
from openclip_triton.bulk.outputs.layouts import Layout
from openclip_triton.bulk.samples import Kind
from openclip_triton.bulk.shards import Done, Task, embed_alone
from openclip_triton.client import Client
from openclip_triton.errors import ClientError

LOCAL = "local"
TASKS_PER_CPU = 2  # running or waiting, so that no core idles and the cluster's scaler sees demand
RETRIES = 3  # retries of a partition whose worker dies
STOP_S = 10.0  # for running tasks to remove their files


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine and stop it at the end.

    Args:
        address: `local` starts one, `auto` finds the one that this machine is part of; or
            HOST:PORT of a cluster's head, or ray://HOST:PORT.

    Raises:
        JobError: There is no cluster at the address.
    """
    alone = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **alone)
    except (ValueError, RuntimeError, ConnectionError, RayError) as error:
        raise JobError(f"no Ray cluster at {address}: {_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


class RayRunner:
    """Embeds partitions in tasks of the connected cluster.

    Args:
        connect: Opens a client; runs in each task.
        folder: Where relative paths begin, on every machine; None: nothing is relative.
        layout: Names and writes the output.
        settings: Of the vectors.
    """

    def __init__(
        self, connect: Callable[[], Client], folder: str | None, layout: Layout, settings: Settings
    ) -> None:
        self.published = 0  # partitions
        self._given = (folder, connect, layout, settings)
        self._remote: Any = ray.remote(max_retries=RETRIES)(_embed)

    def run(
        self, tasks: Iterable[Task], advance: Callable[[bool], None]
    ) -> Generator[Done, None, None]:
        """Do as `Embedder.run`, but with several partitions at once, which finish in any order.

        After an error no more are begun, and it is raised once the running ones are written. An
        OSError reports a partition on which a worker died `RETRIES` + 1 times.
        """
        left = iter(tasks)
        running: dict[Any, Task] = {}
        failed: Exception | None = None
        try:
            while True:
                if failed is None:
                    try:
                        for task in islice(left, max(0, _room() - len(running))):
                            running[self._remote.remote(*self._given, task)] = task
                    except (JobError, OSError) as error:  # of the input's listing
                        failed = error
                if not running:
                    break
                [ended], _ = ray.wait(list(running))
                task = running.pop(ended)
                try:
                    heads = _heads(ended, task)
                except (JobError, ClientError, OSError) as error:
                    failed = failed or error
                    continue
                self.published += 1
                head = next(iter(heads.values()))
                for number in range(head.items):
                    advance(number < head.failed)
                yield Done(task, heads)
            if failed is not None:
                raise failed
        finally:
            _stop(list(running))


def _embed(
    folder: str | None,
    connect: Callable[[], Client],
    layout: Layout,
    settings: Settings,
    task: Task,
) -> dict[Kind, Head]:
    if folder is not None:
        os.chdir(folder)
    return embed_alone(connect, layout, settings, task)


def _heads(ended: object, task: Task) -> dict[Kind, Head]:
    try:
        heads: dict[Kind, Head] = ray.get(ended)
    except RayTaskError as error:
        if isinstance(error.cause, RayError):  # as where a machine lacks this package
            raise OSError(f"{task.partition.source}: {_line(error.cause)}") from error
        raise error.cause from None
    except RayError as error:
        raise OSError(f"{task.partition.source}: {_line(error)}") from error
    return heads


def _room() -> int:
    return TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))


def _stop(running: list[Any]) -> None:
    for one in running:
        ray.cancel(one)
    if running:
        ray.wait(running, num_returns=len(running), timeout=STOP_S)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
