"""A worker group that is this very program, started under torchrun by hand: nothing is isolated."""

from __future__ import annotations

from ring_attn_bench.bench.group import GroupFailed
from ring_attn_bench.bench.messages import Command, Envelope, Quit
from ring_attn_bench.bench.record import Status
from ring_attn_bench.bench.team import Team


class InPlaceGroup:
    """Process 0 asks all processes, itself among them; the others are in `follow`."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self.generation = 1

    def ask(self, about: str, command: Command, seconds: float) -> list[dict[str, object]]:
        """The answers of all processes; raises GroupFailed. No time limit can be kept here."""
        outcomes = self._team.carry_out(Envelope(about=about, command=command))
        worst = next((found for found in outcomes if found.status != "ok"), None)
        if worst is None:
            return [found.answer for found in outcomes]
        if not worst.usable:
            raise SystemExit(f"a device is lost, and with it this run: {worst.reason}")
        raise GroupFailed(Status(worst.status), worst.reason, [])

    def close(self) -> None:
        """Lets the other processes go."""
        self.ask("", Quit(), 0)
        self._team.leave()


def follow(team: Team) -> None:
    """What every process but process 0 does: carry out until told to quit."""
    while not any(outcome.answer.get("quit") for outcome in team.carry_out(None)):
        pass
    team.leave()
