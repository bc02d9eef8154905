"""What torchrun starts for a worker group: `-m ring_attn_bench.bench.serve FOLDER PID WORLD_SIZE`.

FOLDER is the group's, PID the parent's; the rest is the ring's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ring_attn_bench.workers.member import Member


def main(folder: Path, parent: int, world_size: int) -> None:
    """Serves commands until `Quit`, or until the parent is gone."""
    member = Member(folder, parent)
    # not before the process id is known: importing torch can take long, and can fail
    from ring_attn_bench.bench.team import Team
    from ring_attn_bench.workers.channel import Channel
    from ring_attn_bench.workers.serving import answer_all

    team = Team.join(world_size, member.leave, member.meeting_place(), parent)

    def carry_out(line: str | None) -> str:
        replies = team.carry_out(line)
        if any(reply.facts.get("quit") for reply in replies):
            os._exit(0)  # nothing is left to do, and a broken device could make a tidy exit hang
        return "[" + ",".join(reply.model_dump_json() for reply in replies) + "]"

    if member.is_first:
        answer_all(Channel.connect(folder / "socket"), folder, carry_out)
    while True:
        carry_out(None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
