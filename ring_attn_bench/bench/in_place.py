"""A worker group that is this very program, started under torchrun by hand: nothing is isolated."""

from __future__ import annotations

from ring_attn_bench.bench.messages import QUIT
from ring_attn_bench.bench.team import Team
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.reply import Facts, MemberReply, WorkerFailed


class TeamLost(Exception):
    """A process has ended while others wait for it."""


def _carry_out(team: Team, line: str | None) -> list[MemberReply]:
    """What all processes answered; raises TeamLost where one of them has ended."""
    try:
        return team.carry_out(line)
    except RuntimeError:  # of the messages: what a command raises is a reply
        raise TeamLost(
            f"process {team.place.process} has lost the others: one of them was ended, and with it "
            "this run."
        ) from None


class InPlaceGroup:
    """Process 0 asks all processes, itself among them; the others are in `follow`."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self.generation = 1

    def ask(self, command: str, seconds: float) -> list[Facts]:
        """What all processes found; raises WorkerFailed. No time limit can be kept here."""
        replies = _carry_out(self._team, command)
        # by rank, not by badness: what is worse in another may come of it
        first = next((reply for reply in replies if reply.status is not Status.OK), None)
        if first is None:
            return [reply.facts for reply in replies]
        if not first.usable:
            raise SystemExit(f"a device is lost, and with it this run: {first.reason}")
        raise WorkerFailed(first.status, first.reason)

    def close(self) -> None:
        """Lets the other processes go."""
        self.ask(QUIT, 0)
        self._team.leave()


def follow(team: Team) -> None:
    """What every process but process 0 does: carry out until told to quit."""
    try:
        while not any(reply.facts.get("quit") for reply in _carry_out(team, None)):
            pass
    except TeamLost as error:
        raise SystemExit(str(error)) from None
    team.leave()
