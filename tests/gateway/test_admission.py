"""Permits by requests, items and bytes, and the errors of requests without one."""

import asyncio
from contextlib import ExitStack

import pytest

from gateway.admission.permits import Admission, Room
from gateway.admission.wait import LONGEST_S, WINDOW_S, Drain
from gateway.errors import DeadlineExceeded, Overloaded, TooSlow
from gateway.models.values import TimeLimit


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock | None = None, **room: int) -> Admission:
    wide = {"requests": 100, "items": 100, "bytes": 100}
    return Admission(Room(**(wide | room)), clock or Clock())


@pytest.mark.parametrize(
    ("room", "setting"),
    [
        ({"requests": 2}, "GATEWAY_MAX_INFLIGHT"),
        ({"items": 2}, "GATEWAY_MAX_INFLIGHT_ITEMS"),
        ({"bytes": 20}, "GATEWAY_MAX_INFLIGHT_BYTES"),
    ],
)
def test_every_limit_holds_and_is_named(room: dict[str, int], setting: str) -> None:
    permits = admission(None, **room)
    with permits.permit(10), permits.permit(10):
        with pytest.raises(Overloaded, match=rf"\({setting}\) is {next(iter(room.values()))} "):
            permits.permit(10).__enter__()
        assert permits.requests == permits.items == 2
    with permits.permit(10):
        pass
    assert (permits.requests, permits.items, permits.bytes) == (0, 0, 0)


def test_one_alone_is_let_in_whatever_its_bytes() -> None:
    permits = admission(bytes=10)
    with permits.permit(1_000):
        assert permits.bytes == 1_000
        with pytest.raises(Overloaded):
            permits.permit(1).__enter__()
    assert permits.bytes == 0


def test_bytes_are_held_as_they_arrive() -> None:
    permits = admission(bytes=10)
    with permits.permit(0) as first, permits.permit(0) as second:
        first.hold(4)
        first.hold(4)
        with pytest.raises(Overloaded, match=r"\(GATEWAY_MAX_INFLIGHT_BYTES\) is 10 bytes"):
            second.hold(3)
        second.hold(2)
        assert (permits.bytes, second.bytes) == (10, 2)  # what was refused holds nothing more
    assert permits.bytes == 0


def test_one_alone_may_hold_more_than_all_the_room() -> None:
    permits = admission(bytes=10)
    with permits.permit(0) as first, permits.permit(0) as second:
        first.hold(1_000)
        first.hold(1)
        with pytest.raises(Overloaded):
            second.hold(1)
    assert permits.bytes == 0


def test_one_alone_of_more_than_all_the_room_leaves_some_for_others() -> None:
    permits = shared(bytes=80)
    with permits.permit(0, client="large") as large:
        large.hold(50)
        large.hold(1_000)
        assert permits.bytes == 60
        with pytest.raises(Overloaded):
            permits.permit(1, client="large").__enter__()
        with permits.permit(20, client="other"):
            pass
    with permits.permit(1_000, client="large"), permits.permit(20, client="other"):
        assert permits.bytes == 80
    assert permits.bytes == 0


def test_requests_of_many_items_share_half_of_the_room() -> None:
    permits = admission(items=80)
    with ExitStack() as stack:
        held = [stack.enter_context(permits.permit(0)) for _ in range(5)]
        for each in held[:4]:
            each.claim(1_000)  # counts as an eighth
        assert permits.items == 41
        with pytest.raises(Overloaded, match="half of GATEWAY_MAX_INFLIGHT_ITEMS"):
            held[4].claim(9)
        assert permits.items == 41  # what was refused holds nothing more
        held[4].claim(8)
        with permits.permit(0, 32):
            assert permits.items == 80
    assert permits.items == 0


def holding(stack: ExitStack, permits: Admission, client: str, most: int = 100) -> int:
    """Take permits until one is refused: how many."""
    for number in range(most):
        try:
            stack.enter_context(permits.permit(1, client=client))
        except Overloaded:
            return number
    return most


def shared(**room: int) -> Admission:
    wide = {"requests": 10_000, "items": 10_000, "bytes": 10_000}
    return Admission(Room(**(wide | room), share=0.25), Clock())


@pytest.mark.parametrize("what", ["requests", "items", "bytes"])
def test_one_client_leaves_room_for_others(what: str) -> None:
    permits = shared(**{what: 80})
    with ExitStack() as stack:
        assert holding(stack, permits, "alone") == 60
        with pytest.raises(Overloaded, match="GATEWAY_CLIENT_SHARE"):
            permits.permit(1, client="alone").__enter__()
        # Half of what was free: as much stays free for who comes next.
        assert holding(stack, permits, "second") == 10
        assert holding(stack, permits, "third") == 5
        for number in range(5):
            assert holding(stack, permits, f"another {number}", 1) == 1
        assert holding(stack, permits, "alone") == 0
    assert (permits.requests, permits.items, permits.bytes) == (0, 0, 0)


def test_among_others_a_client_holds_its_share() -> None:
    permits = shared(requests=80)
    with ExitStack() as stack:
        for client in ("one", "two"):
            holding(stack, permits, client, 1)
        assert [holding(stack, permits, client) for client in ("one", "two")] == [19, 19]
        # Three shares would leave less than one for others.
        assert holding(stack, permits, "three") == 20
        assert holding(stack, permits, "four") == 10


def test_a_clients_only_request_may_hold_more_than_its_share() -> None:
    permits = shared(bytes=80, items=80)
    with permits.permit(1, client="small"), permits.permit(70, client="large") as large:
        large.hold(5)
        large.claim(1_000)
        with pytest.raises(Overloaded, match="GATEWAY_CLIENT_SHARE"):
            permits.permit(1, client="large").__enter__()
        with permits.permit(1, client="another"):
            pass


def test_items_are_claimed_once_they_are_known() -> None:
    permits = admission(items=10)
    with permits.permit(0) as first, permits.permit(0) as second:
        first.claim(4)
        with permits.permit(0, 3), pytest.raises(Overloaded, match="GATEWAY_MAX_INFLIGHT_ITEMS"):
            second.claim(4)
        assert permits.items == 5  # what was refused holds nothing more
        second.claim(5)
        assert permits.items == 9
    assert permits.items == 0


def test_the_drain_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    drain = Drain(clock)
    for _ in range(30):
        clock.now += 1
        drain.add(50)
    assert drain.seconds(200) == pytest.approx(4.0)
    assert drain.seconds(1) == 1.0
    assert drain.seconds(10**9) == LONGEST_S
    clock.now += WINDOW_S + 1
    assert drain.seconds(1) == LONGEST_S  # nothing has come through for long


def test_who_is_refused_is_told_when_what_is_there_will_be_done() -> None:
    clock = Clock()
    permits = admission(clock, requests=2, items=1_000)
    for _ in range(20):
        with permits.permit(0) as permit:
            permit.claim(10)
            clock.now += 1
    with permits.permit(0) as first, permits.permit(0):
        first.claim(59)
        with pytest.raises(Overloaded) as refused:
            permits.permit(0).__enter__()
    assert refused.value.retry_after_s == pytest.approx(6.0, rel=0.2)  # 60 items, 10 a second


def test_what_is_refused_does_not_count_as_done() -> None:
    clock = Clock()
    permits = admission(clock, items=10)
    clock.now += 2 * WINDOW_S
    with permits.permit(0, 10):
        for _ in range(100):
            with pytest.raises(Overloaded):
                permits.permit(0).__enter__()
    with permits.permit(0, 9), permits.permit(0) as second, pytest.raises(Overloaded) as refused:
        second.claim(2)
    # 10 items in the window, of which none was refused.
    assert refused.value.retry_after_s == pytest.approx(10.0)


async def test_work_ends_at_its_deadline_and_gives_its_room_back() -> None:
    permits = admission()

    async def work() -> None:
        with TimeLimit(0.5) as limit, permits.permit(10) as permit:
            permit.claim(7)
            assert 0 < limit.deadline.left() <= 0.5
            await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded, match=r"0\.5 seconds"):
        await work()
    assert (permits.requests, permits.items, permits.bytes) == (0, 0, 0)


async def test_an_earlier_moment_ends_work_unless_it_is_put_off() -> None:
    async def work(puts_it_off: bool) -> None:
        with TimeLimit(0.5, 0.05, lambda: TooSlow("the body")) as limit:
            if puts_it_off:
                limit.earlier = None
            await asyncio.sleep(60)

    with pytest.raises(TooSlow):
        await work(puts_it_off=False)
    with pytest.raises(DeadlineExceeded):
        await work(puts_it_off=True)


async def test_work_that_is_cancelled_by_another_stays_cancelled() -> None:
    limits: list[TimeLimit] = []

    async def work() -> None:
        with TimeLimit(60) as limit:
            limits.append(limit)
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    limits[0].end(TooSlow("the body"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_ends_work_comes_too_late_after_it() -> None:
    with TimeLimit(60) as limit:
        pass
    limit.end(TooSlow("the body"))
    await asyncio.sleep(0)


async def test_an_own_timeout_inside_is_not_the_deadline() -> None:
    with pytest.raises(ZeroDivisionError), TimeLimit(60):
        raise ZeroDivisionError
