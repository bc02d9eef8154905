"""The CuTe backward that adds to dq, over the model of `played_backward`: what is shown and staged.

A warpgroup's part of a slot says at which step it was laid there. What was laid is seen by tensor
cores and by TMA only behind a fence; TMA reads some time after it is asked, and adds later still.
"""

import threading
from collections import Counter
from types import SimpleNamespace

from tests.played_backward import (
    Part,
    PlayedBackward,
    key_gradients,
    own_pipes,
    row_tiles,
)
from tests.played_kernels import CLOCK, fresh, plain, when

shares = fresh("shares")


class Laid:
    """Slots: of each warpgroup, at which of its steps it has laid its part there."""

    def __init__(self, groups, stages):
        self.tile = [dict.fromkeys(range(groups)) for _ in range(stages)]
        self.readers = [0] * stages

    def __getitem__(self, place):
        return place[1]


class Tiles:
    """Of a head, in global memory."""

    def __init__(self, head):
        self.head = head

    def __getitem__(self, place):
        return self.head, place[1]


class PlayedAdding(PlayedBackward):
    """With a pipe of gradients of scores, and one of tiles of dq; `added` is what TMA has added."""

    def __init__(self, monkeypatch, model, stages, shown):
        super().__init__(monkeypatch, model, key_gradients, stages, ahead=False)
        groups = model.config.groups
        self.shown = model.pipe(shown, 4 * groups, writers=4 * groups)
        self.staged = model.pipe(1, 1, writers=4 * groups)
        for pipe in (self.shown, self.staged):
            pipe.slots = Laid(groups, pipe.stages)
        self.added, self.of_tma, self.mine = [], [], threading.local()
        self.arch.mbarrier_arrive = self._arrive
        self.arch.fence_view_async_shared = lambda: self._unfenced.clear()
        self.arch.sync_warp = lambda: None
        self.arch.cp_async_bulk_commit_group = lambda: None
        self.arch.cp_async_bulk_wait_group = self._wait_for_tma
        hand_on = plain(own_pipes.hand_on)
        for name, stand_in in {
            "cutlass": self.loops, "key_gradients": key_gradients, "release": self._release,
            "steps": plain(shares.steps),
            "multiply": self._multiply, "read": lambda _: [], "write": lambda *_: model.pause(),
            "warpgroup": SimpleNamespace(wait_group=model.wait_group), "lay": self._lay,
            "lanes": SimpleNamespace(lane_now=lambda: 0),
            "await_empty": own_pipes.await_empty,
            "hand_on": lambda pipe, i, _: hand_on(pipe, i, 0),
        }.items():  # fmt: skip
            monkeypatch.setattr(shares, name, stand_in)
        monkeypatch.setattr(own_pipes, "cute", SimpleNamespace(size=len, copy=self._copy))
        for name, stand_in in {
            "add": own_pipes.add, "load_at": self._load_at, "receive": own_pipes.receive,
            "release_loaded": lambda pipe, i, _: pipe.empty[i % pipe.stages].arrive(1),
        }.items():  # fmt: skip
            monkeypatch.setattr(row_tiles, name, stand_in)

    @property
    def _unfenced(self):
        return self.mine.__dict__.setdefault("unfenced", [])

    def _arrive(self, barrier):
        assert not self._unfenced, "what was laid is not seen by those who are told of it"
        barrier.arrive(32 if barrier.count == 32 else 4)  # of a warp's lanes; of four warps

    def _multiply(self, mma, into, a, b, *, fresh):
        super()._multiply(mma, into, None, a if isinstance(a, tuple) else b, fresh=fresh)

    def _lay(self, tensor, slots, slot, row, column, lane):
        with CLOCK:
            assert slots.readers[slot] == 0, "laid where somebody reads"
            step = self.mine.laid[slots]
            slots.tile[slot] = slots.tile[slot] | {self.mine.part: step}
        self.mine.laid[slots] += 1
        self._unfenced.append(slot)
        self.model.pause()

    def _load_at(self, load, head):
        if load is None:  # of the only visit there is
            return None, Tiles(head), self.staged.slots
        is_added_to = load[0] == "dq"
        return (None, Tiles((load, head)), self.staged.slots) if is_added_to else (load, head)

    def _copy(self, atom, slot, place):
        """TMA is asked to add; it is done with the slot before it is with global memory."""
        slots, asked = self.staged.slots, SimpleNamespace(is_read=False, is_added=False)
        slots.readers[slot] += 1

        def add():
            self.model.pause()
            with CLOCK:
                found = slots.tile[slot]
                slots.readers[slot] -= 1
                asked.is_read = True
                CLOCK.notify_all()
            self.model.pause()
            with CLOCK:
                self.added.append((*place, found))
                asked.is_added = True
                CLOCK.notify_all()

        self.of_tma.append(asked)
        threading.Thread(target=add).start()

    def _wait_for_tma(self, left, read=False):
        assert left == 0
        when(lambda: all(asked.is_read if read else asked.is_added for asked in self.of_tma))

    def begin(self, part):
        """What a warpgroup holds, is given, and shares."""
        held, given = super().begin(part)
        given.factors = (1.0, 0.0, 1.0)
        self.mine.part, self.mine.laid = part, Counter()
        mine = shares.Shares(
            None, Part("shown", self.shown, part), None, None, self.shown, self.staged, 0, 0, 0
        )
        return held, given, mine

    def add(self, heads, where):
        """The third warp's own lines; what TMA was asked for when they are through is done."""
        plain(row_tiles.add_rows)(None, self.staged, heads, where, 0)
        assert all(asked.is_added for asked in self.of_tma), "left before TMA was done"


def shown_at(log):
    """What a warpgroup multiplied of row tiles, and for dq of what all have shown."""
    of_tiles = [x for x in log if x[0] != "shown"]
    return of_tiles, [what for kind, what in log if kind == "shown"]
