"""Verifies trials, many at a time, each thread with a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread

from ring_attn_bench.probe.process import ProcessFailed
from ring_attn_bench.records.outcome import Subject
from ring_attn_bench.tune.hand import Hand
from ring_attn_bench.tune.messages import Verified, Verify

Tell = Callable[[Subject, Verified], None]


def verified(hand: Hand, subject: Subject, seconds: float) -> Verified:
    """The answer about one trial, also where the process dies of it or does not answer."""
    try:
        hand.load()
    except ProcessFailed as failure:
        return Verified(verdict=failure.verdict, reason=f"before it was tried, {failure.reason}")
    try:
        found = Verified.model_validate_json(hand.ask(Verify(subject=subject), seconds))
    except ProcessFailed as failure:
        return Verified(verdict=failure.verdict, reason=failure.reason)
    if not found.usable:
        hand.drop()
    return found


def verify_all(
    subjects: Sequence[Subject],
    hands: Sequence[Hand],
    seconds: float,
    doing: Callable[[str], None],
    tell: Tell,
    check: Callable[[], None],
) -> None:
    """Returns when all are told of; `check` may raise, and is called all the while.

    The widest head dims go first: they take longest to compile.
    """
    waiting: SimpleQueue[Subject] = SimpleQueue()
    for subject in sorted(subjects, key=lambda x: -x.trial.head_dim):
        waiting.put(subject)

    def work(hand: Hand) -> None:
        while True:
            try:
                subject = waiting.get_nowait()
            except Empty:
                break
            doing(str(subject))
            try:
                found = verified(hand, subject, seconds)
            except Exception:
                if hand.ended:  # its process and its socket were taken away
                    return
                raise
            tell(subject, found)
        hand.drop()

    threads = [Thread(target=work, args=(hand,), daemon=True) for hand in hands]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)  # so that a signal is seen to at once
            check()
    check()
