"""Many calls of packed documents on rings of one to four ranks, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from tests.distributed.pool import Raised, RankPool
from tests.hostile.campaign import RAW, REFUSED, RIGHT, WRONG
from tests.hostile.ring_answers import ask, faults, refused
from tests.hostile.ring_mistakes import DIFFERENCES, MISTAKES, differs
from tests.hostile.rings import Case, drawn

CAUGHT = "mistakes caught"


@dataclass
class Tally:
    """Outcomes by what they are, and each failure in words, with what it takes to ask again."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        named = (RIGHT, CAUGHT, REFUSED, RAW, WRONG)
        counts = ", ".join(f"{self.counts[what]:,} {what}" for what in named)
        return "\n".join([counts, *self.failures])

    def add(self, what: str, wrong: Sequence[str], *call: object) -> None:
        """what it is if nothing is wrong."""
        self.counts[what if not wrong else WRONG if what == RIGHT else RAW] += 1
        if wrong:
            self.failures.append("\n".join([f"ask{call}", *wrong]))


def run(seed: int, count: int, pool: RankPool, mistakes: float = 0.3) -> Tally:
    """So many calls from a seed, of which about that share has a mistake, on one rank or on all."""
    random, tally = Random(seed), Tally()
    for _ in range(count):
        case, dice = drawn(random), random.random()
        if dice >= mistakes:
            right(tally, pool, case)
            continue
        every = tuple(range(case.world_size))
        one = (random.choice(every),)
        if dice < mistakes / 3 and differs(case):
            caught(tally, pool, case, random.choice(list(DIFFERENCES)), one)
        else:
            caught(tally, pool, case, random.choice(list(MISTAKES)), random.choice((every, one)))
    return tally


def right(tally: Tally, pool: RankPool, case: Case) -> None:
    """Asks a call without a mistake, which all ranks answer, or all refuse."""
    answers = pool.outcomes(ask, case, world_size=case.world_size)
    if any(isinstance(answer, Raised) for answer in answers):
        tally.add(REFUSED, refused(answers), case)
    else:
        tally.add(RIGHT, faults(case, answers), case)


def caught(tally: Tally, pool: RankPool, case: Case, mistake: str, wrong: tuple[int, ...]) -> None:
    """Asks a call with a mistake on some ranks, which all are to refuse."""
    answers = pool.outcomes(ask, case, mistake, wrong, world_size=case.world_size)
    tally.add(CAUGHT, refused(answers), case, mistake, wrong)
