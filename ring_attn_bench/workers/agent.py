"""torchrun for a group, ended with its parent: `-m ring_attn_bench.workers.agent FOLDER ...`.

FOLDER is the group's; the other arguments are torchrun's own. A parent that is killed can end
nobody, and torchrun goes on for minutes then. So it holds one end of a pipe that is this process's
standard input: the end of it is the parent's. The workers look after themselves (`serving`).
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from ring_attn_bench.workers.folder import put_away


def main(folder: Path, arguments: list[str]) -> None:
    """Runs torchrun, for as long as there is a parent."""
    threading.Thread(target=end_with_parent, args=(folder,), daemon=True).start()
    # not before somebody watches: to import torch takes seconds
    from torch.distributed.run import main as torchrun

    torchrun(arguments)


def end_with_parent(folder: Path) -> None:
    """Ends this process, whatever it is doing, when nobody holds the other end of its input."""
    while os.read(0, 1):
        pass
    put_away(folder)  # there may be no worker yet to do it
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
