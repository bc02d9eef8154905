"""What ends a pass whose peers have gone, with events that a test ends."""

import gc
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest

from ring_attn_bench.errors import RingBroken
from ring_attn_bench.ring.transports.copy_engine import watch as module
from ring_attn_bench.ring.transports.copy_engine.watch import Watch
from tests.patience import limit

PLAN = SimpleNamespace(rank=2)
LONG, SHORT = timedelta(seconds=600), timedelta(seconds=0.2)


class End:
    """A pass's last event."""

    def __init__(self, over=False):
        self.over, self.asked = over, 0

    def record(self, stream):
        """A stream comes to it when the test says so."""

    def query(self):
        self.asked += 1
        return self.over


class Transport:
    """Notes what is given up, and ends the passes that are told."""

    device = "a GPU"

    def __init__(self, ends=()):
        self.given_up, self.releases, self._ends = [], 0, list(ends)
        self.driver = SimpleNamespace(let_capture=lambda: None)

    def awaited(self, plan, slot, head_groups):
        self.given_up.append((plan.rank, slot))
        return "the keys of rank 1"

    def release(self):
        self.releases += 1
        if self._ends:
            self._ends.pop(0).over = True


@pytest.fixture(autouse=True)
def _without_cuda(monkeypatch):
    monkeypatch.setattr(module.torch.cuda, "set_device", lambda device: None)


def follow(watch, end, slot):
    """A pass whose end is that event: the next that the watch would record again."""
    watch._spare.appendleft(end)
    watch.follow("a stream", PLAN, slot, 1)


def until(condition):
    deadline = time.monotonic() + limit(20)
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.005)


def test_no_thread_is_there_before_a_pass():
    transport = Transport()
    watch = Watch(transport, LONG)
    watch.check()
    assert watch._thread is None


def test_a_pass_that_ends_is_forgotten_and_the_next_is_looked_at():
    transport, first, second = Transport(), End(), End()
    watch = Watch(transport, LONG)
    follow(watch, first, 0)
    follow(watch, second, 1)

    until(lambda: first.asked > 1)
    assert second.asked == 0
    first.over = True
    until(lambda: second.asked > 0)
    second.over = True
    until(lambda: not watch._passes)
    late = End(over=True)
    follow(watch, late, 0)
    until(lambda: late.asked > 0)

    watch.check()
    assert transport.given_up == []
    watch.end()


def test_a_pass_that_does_not_end_is_given_up_and_every_later_call_says_so():
    ended, stuck, behind = End(over=True), End(), End()
    transport = Transport([stuck, behind])
    watch = Watch(transport, SHORT)
    for slot, end in enumerate((ended, stuck, behind)):
        follow(watch, end, slot)

    until(lambda: watch._broken is not None)
    for _ in range(2):
        with pytest.raises(RingBroken) as error:
            watch.check()
    said = str(error.value)
    assert "pass 2 of the ring" in said
    assert "rank 2 waited for the keys of rank 1 in vain" in said
    until(lambda: not watch._thread.is_alive())
    assert transport.given_up == [(2, 1)]
    assert transport.releases >= 2
    assert behind.over, "what is behind it waits as well"


def test_the_time_counts_from_when_a_pass_is_the_oldest(monkeypatch):
    """Two passes that take 6 s of a timeout of 10 each: the second one is not late, until it is."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        module, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=time.sleep)
    )
    transport, first, second = Transport(), End(), End()
    transport._ends = [second]
    watch = Watch(transport, timedelta(seconds=10))
    follow(watch, first, 0)
    follow(watch, second, 1)
    until(lambda: first.asked)
    clock.now = 6.0
    first.over = True
    until(lambda: second.asked)
    clock.now = 12.0
    asked = second.asked
    until(lambda: second.asked > asked + 1)
    watch.check()

    clock.now = 17.0
    until(lambda: watch._broken is not None)
    assert transport.given_up == [(2, 1)]


@pytest.mark.parametrize("how", ["it is told", "its transport is gone"])
def test_the_thread_ends_with_its_transport(how):
    transport = Transport()
    watch = Watch(transport, LONG)
    follow(watch, End(), 0)
    assert watch._thread.daemon
    until(lambda: watch._passes[0].end.asked)
    if how == "it is told":
        watch.end()
    else:
        del transport
        gc.collect()
    watch._thread.join(limit(10))

    assert not watch._thread.is_alive()


def test_an_idle_thread_ends_at_once_when_told():
    watch = Watch(transport := Transport(), LONG)
    follow(watch, End(over=True), 0)
    until(lambda: not watch._passes)
    began = time.monotonic()
    watch.end()
    watch._thread.join(limit(10))

    assert time.monotonic() - began < limit(2)
    assert transport.given_up == []
