"""A gateway while somebody attacks it: its memory, and whether it answers others."""

import threading
import time
from pathlib import Path
from typing import Self

import httpx

from tests.conftest import GatewayClient

LATE_S = 5.0  # on a busy machine; an event loop that is blocked is far later
EVERY_S = 0.05


class UnderAttack:
    """Asks `/livez` all the while the block lasts, and reads how the memory rises within."""

    def __init__(self, api: GatewayClient) -> None:
        self._url = f"{api.base_url}/livez"
        self._process = Path("/proc") / str(api.process)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.latest_s = 0.0
        self.statuses = set[int]()
        self.risen = 0  # bytes that were resident at most, above those at the beginning

    def __enter__(self) -> Self:
        (self._process / "clear_refs").write_text("5")  # the peak is what there is now
        self._before = self._resident("VmRSS")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.risen = self._resident("VmHWM") - self._before
        print(f"memory +{self.risen / 2**20:.0f} MB, /livez {self.latest_s:.2f} s at most")

    def judge(self, most: int) -> None:
        """Fails if it took more than `most` bytes of memory, or other requests had no answer."""
        assert self.statuses == {200}, self.statuses
        assert self.latest_s < LATE_S, f"{self.latest_s:.1f} s"
        assert self.risen < most, f"{self.risen / 2**20:.0f} MB"

    def _ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while True:
                began = time.perf_counter()
                self.statuses.add(client.get(self._url).status_code)
                self.latest_s = max(self.latest_s, time.perf_counter() - began)
                if self._over.wait(EVERY_S):
                    return

    def _resident(self, name: str) -> int:
        lines = (self._process / "status").read_text().splitlines()
        [line] = (line for line in lines if line.startswith(name))
        return int(line.split()[1]) * 1024
