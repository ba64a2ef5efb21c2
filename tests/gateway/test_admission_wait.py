"""A request that would wait too long is refused: a simulated encoder on a simulated clock."""

import contextlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from gateway.admission.permits import Admission, Permit, Room
from gateway.admission.wait import FEW_ITEMS
from gateway.errors import Overloaded

LIMIT_S = 5.0
CAPACITY = 20.0  # items a second
WIDE = Room(requests=10_000, items=10**6, bytes=10**9, wait_s=LIMIT_S)


@dataclass
class Service:
    """Answers requests in the order of arrival, at a fixed number of items a second."""

    capacity: float = CAPACITY
    now: float = 1_000.0
    refused: int = 0
    waits: list[float] = field(default_factory=list)  # seconds, of those that were answered

    def __post_init__(self) -> None:
        self.permits = Admission(WIDE, lambda: self.now)
        self._free = self.now
        self._under_way: deque[tuple[float, float, Permit]] = deque()

    def ask(self, items: int = 1, images: int = 0, client: str = "") -> bool:
        """A request comes; whether it is let in."""
        try:
            permit = self.permits.permit(100, client=client)
        except Overloaded:
            self.refused += 1
            return False
        try:
            permit.claim(items, images)
        except Overloaded as error:
            permit.release(type(error))
            self.refused += 1
            return False
        self._free = max(self._free, self.now) + items / self.capacity
        self._under_way.append((self._free, self.now, permit))
        return True

    def known(self) -> bool:
        """A request comes whose vector is known: it is answered at once."""
        try:
            with self.permits.permit(100) as permit:
                permit.claim(1)
                self.now += 0.0001
        except Overloaded:
            return False
        return True

    def until(self, moment: float) -> None:
        """Let time pass."""
        while self._under_way and self._under_way[0][0] <= moment:
            self.now, came, held = self._under_way.popleft()
            held.release()
            self.waits.append(self.now - came)
        self.now = max(self.now, moment)

    def flood(self, rate: float, seconds: float, items: int = 1) -> None:
        """So many requests a second."""
        for moment in moments(self.now, rate, seconds):
            self.until(moment)
            self.ask(items)

    def rest(self) -> None:
        """Answer what is under way."""
        self.until(self.now + 1_000.0)


def moments(start: float, rate: float, seconds: float) -> Iterator[float]:
    return (start + number / rate for number in range(round(rate * seconds)))


@pytest.mark.parametrize("capacity", [5.0, 20.0, 300.0])
def test_a_flood_waits_no_longer_than_the_limit_and_keeps_the_encoder_busy(capacity: float) -> None:
    service = Service(capacity)
    service.flood(10 * capacity, 60.0)
    assert service.refused > 8 * capacity * 60
    assert len(service.waits) > 0.95 * capacity * 60
    # Before the first answers nothing is known; so some wait longer, once.
    assert max(service.waits) < 4 * LIMIT_S
    assert max(service.waits[len(service.waits) // 2 :]) < 1.25 * LIMIT_S


def test_a_load_that_can_be_served_is_not_refused() -> None:
    service = Service()
    service.flood(0.95 * CAPACITY, 60.0)
    assert service.refused == 0


def test_the_first_burst_is_let_in_and_so_is_the_next_after_a_pause() -> None:
    service = Service()
    for _ in range(3):
        assert all(service.ask() for _ in range(200))
        service.rest()


def test_answers_that_were_known_do_not_make_the_others_look_fast() -> None:
    service = Service()
    for moment in moments(service.now, 10 * CAPACITY, 30.0):
        service.until(moment)
        service.ask()
        for _ in range(10):
            service.known()
    assert service.refused > 1_000
    assert max(service.waits) < 2 * LIMIT_S


def test_texts_do_not_wait_for_images() -> None:
    """A flood of images refuses images; texts, which have an encoder of their own, are let in."""
    service = Service()
    texts = 0
    for number, moment in enumerate(moments(service.now, 10 * CAPACITY, 60.0)):
        service.until(moment)
        service.ask(images=1)
        if number % 10 == 0:
            texts += service.known()
    assert service.refused > 5_000
    assert texts == 10 * CAPACITY * 60 / 10


def test_a_client_does_not_wait_for_all_of_another() -> None:
    """A flood refuses who sends it; others take turns with it."""
    service = Service()
    service.flood(10 * CAPACITY, 20.0)
    while service.ask():
        pass
    most = round(LIMIT_S * CAPACITY / 2)
    let_in = sum(service.ask(client="another") for _ in range(100))
    assert let_in == pytest.approx(most, abs=5)
    assert service.ask(client="a third")


def test_a_route_of_images_is_refused_before_its_body_is_read() -> None:
    service = Service()
    for moment in moments(service.now, 10 * CAPACITY, 30.0):
        service.until(moment)
        service.ask(images=1)
    with pytest.raises(Overloaded, match="GATEWAY_MAX_WAIT_S"):
        service.permits.permit(100, images=True).__enter__()
    with service.permits.permit(100), service.permits.permit(100, images=False):
        pass


def test_few_are_always_let_in() -> None:
    service = Service(capacity=0.01)
    service.flood(1.0, 3_600.0)
    assert len(service.waits) >= 35  # it is never idle
    assert service.permits.requests == FEW_ITEMS


def test_nothing_is_answered_for_hours() -> None:
    service = Service(capacity=1e-9)
    service.flood(0.01, 20_000.0)
    assert service.permits.requests == FEW_ITEMS


def test_what_slows_down_and_recovers_is_noticed() -> None:
    service = Service()
    service.flood(10 * CAPACITY, 20.0)
    service.capacity = CAPACITY / 5
    service.flood(10 * CAPACITY, 60.0)
    assert max(service.waits[-50:]) < 1.3 * LIMIT_S
    service.capacity = CAPACITY
    service.flood(10 * CAPACITY, 2 * LIMIT_S)  # what had come before is done with
    before = len(service.waits)
    service.flood(10 * CAPACITY, 20.0)
    assert len(service.waits) - before > 0.9 * CAPACITY * 20


def test_a_stall_is_forgotten_when_it_is_over() -> None:
    service = Service()
    assert all(service.ask() for _ in range(50))
    service.now += 25.0
    service.rest()
    assert all(service.ask() for _ in range(90))


def test_requests_that_fail_at_once_do_not_make_the_others_look_fast() -> None:
    service = Service()
    for moment in moments(service.now, 10 * CAPACITY, 30.0):
        service.until(moment)
        service.ask()
        with contextlib.suppress(ValueError, Overloaded), service.permits.permit(100) as permit:
            permit.claim(1)
            raise ValueError
    assert service.refused > 1_000
    assert max(service.waits) < 2 * LIMIT_S


def test_one_that_is_slow_for_its_own_reasons_counts_little() -> None:
    service = Service(capacity=1_000.0)
    with service.permits.permit(100) as slow:
        slow.claim(1)
        service.flood(900.0, 20.0)
        for _ in range(1_000):
            assert service.ask()
    service.rest()
    assert service.refused == 0


def test_whose_body_is_still_read_is_not_waited_for() -> None:
    service = Service()
    with ExitStack() as bodies:
        for _ in range(500):
            bodies.enter_context(service.permits.permit(100))
        service.flood(0.9 * CAPACITY, 20.0)
        assert service.refused == 0


def test_a_huge_request_is_let_in_alone_and_holds_nobody_up() -> None:
    service = Service()
    for _ in range(3):
        assert service.ask(10_000)  # 500 s of work
        service.flood(50.0, 1.0)  # those go before it
        assert service.refused == 0
        service.rest()


def test_large_requests_wait_for_each_other() -> None:
    service = Service()
    service.flood(10 * CAPACITY / 64, 300.0, items=64)
    assert service.refused > 100
    waits = sorted(service.waits[len(service.waits) // 2 :])
    assert waits[-1] < LIMIT_S + 2 * 64 / CAPACITY  # its own work, and that of the one before
    assert len(service.waits) * 64 > 0.95 * CAPACITY * 300


def test_streams_are_refused_where_they_would_starve_and_are_in_nobodys_way() -> None:
    service = Service()
    with ExitStack() as streams:
        for _ in range(20):
            streams.enter_context(service.permits.permit(1_000, 128))
        service.flood(0.9 * CAPACITY, 20.0)
        assert service.refused == 0
        for number, moment in enumerate(moments(service.now, 10 * CAPACITY, 20.0)):
            service.until(moment)
            service.ask(images=number % 2)
        while service.ask() or service.ask(images=1):
            pass
        with pytest.raises(Overloaded, match="GATEWAY_MAX_WAIT_S"):
            streams.enter_context(service.permits.permit(1_000, 128))


def test_the_limit_is_named_with_the_time_to_come_again() -> None:
    service = Service()
    service.flood(10 * CAPACITY, 20.0)
    while service.ask():
        pass
    with pytest.raises(Overloaded, match=r"\(GATEWAY_MAX_WAIT_S\) is 5 seconds") as refused:
        service.permits.permit(100, images=False).__enter__()
    assert refused.value.retry_after_s == pytest.approx(LIMIT_S, rel=0.1)
