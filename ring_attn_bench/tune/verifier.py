"""Verifies trials, many at a time, each thread with a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue

from ring_attn_bench.records.outcome import TypedTrial
from ring_attn_bench.tune.messages import Loaded, Verify
from ring_attn_bench.workers.pool import Hand, run_all
from ring_attn_bench.workers.reply import Reply, WorkerFailed

Tell = Callable[[TypedTrial, Reply], None]


def verified(hand: Hand[Loaded], subject: TypedTrial, seconds: float) -> Reply:
    """The answer about one trial, also where the process dies of it or does not answer."""
    when = "before it was tried, "
    try:
        hand.load()
        when = ""
        return hand.ask(Verify(subject=subject), seconds, Reply)
    except WorkerFailed as failure:
        return Reply(status=failure.status, reason=when + failure.reason)


def verify_all(
    subjects: Sequence[TypedTrial],
    hands: Sequence[Hand[Loaded]],
    seconds: float,
    doing: Callable[[str], None],
    tell: Tell,
    check: Callable[[], None],
) -> None:
    """Returns when all are told of; `check` may raise, and is called all the while.

    The widest head dims go first: they take longest to compile.
    """
    waiting: SimpleQueue[TypedTrial] = SimpleQueue()
    for subject in sorted(subjects, key=lambda x: -x.trial.head_dim):
        waiting.put(subject)

    def work(hand: Hand[Loaded]) -> None:
        while True:
            try:
                subject = waiting.get_nowait()
            except Empty:
                break
            doing(str(subject))
            tell(subject, verified(hand, subject, seconds))
        hand.drop()

    run_all([partial(work, hand) for hand in hands], check)
