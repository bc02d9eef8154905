"""Where modules went: an import by an old name fails with a sentence that has the new one.

Such a name belongs to plug-ins, which are written against the contract and live elsewhere. The
finder stands last, so it is asked only for what nothing else has found.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

_ROOMS = {
    "contract": ("backend", "dropout", "install", "peer", "tensors", "tunable"),
    "plan": ("block", "cost", "gathered", "lower", "measured", "partition", "positions", "problem"),
    "records": ("files", "json_lines", "sheets"),
    "truth": ("oracle",),
}
MOVED = {
    f"ring_attn_bench.{name}": f"ring_attn_bench.{room}.{name}"
    for room, names in _ROOMS.items()
    for name in names
} | {
    "ring_attn_bench.bench.record": "ring_attn_bench.records.record",
    "ring_attn_bench.launch": "ring_attn_bench.calls.kernel",
    "ring_attn_bench.suites": "ring_attn_bench.bench.suite_files",
}
"""New names by old ones."""


class _Moved(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Raises ModuleNotFoundError for a name that was one."""
        if fullname in MOVED:
            raise ModuleNotFoundError(f"{fullname} is {MOVED[fullname]} now.", name=fullname)


def install() -> None:
    """Once; a second time changes nothing."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
