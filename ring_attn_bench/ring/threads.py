"""A ring is one thread's at a time: messages of two at once would be taken for each other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from ring_attn_bench.errors import InvalidArgument


class Turn:
    """Whose turn a context is: `lock` is held for a pass, and tried without waiting.

    crossed: whether another thread came meanwhile. Which rank's thread met which is not known
    then, so the pass is refused at its end, too.
    """

    __slots__ = ("crossed", "lock")

    def __init__(self) -> None:
        self.lock = Lock()
        self.crossed = False

    def refused(self, tell: Callable[[], object]) -> InvalidArgument:
        """The error of a thread that came while another one was inside, when that has left.

        tell: tells the other ranks, whose call may wait for this one: after the one inside, so
        that it is told of this call and not of that.
        """
        self.crossed = True
        with self.lock:
            self.crossed = False
            tell()
        return two_threads()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While it lasts, it is this thread's turn; raises where it is another one's."""
        if not self.lock.acquire(blocking=False):
            raise two_threads()
        try:
            yield
        finally:
            self.lock.release()


def two_threads() -> InvalidArgument:
    """Of both: the thread that came, and the one that was inside."""
    return InvalidArgument(
        "two threads called one ring at once, whose messages would be taken for each other's; make "
        "a RingContext for each thread, in one order on all ranks, and pass it as context=, or let "
        "the threads take turns."
    )
