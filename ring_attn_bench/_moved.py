"""Where modules went: an import by an old name fails with a sentence that has the new one.

Such a name belongs to plug-ins, which are written against the contract and live elsewhere. The
finder stands last, so it is asked only for what nothing else has found.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

_ROOMS = {
    "contract": ("backend", "dropout", "install", "peer", "tensors", "tunable"),
    "plan": (
        "block", "cost", "gathered", "lower", "measured", "partition", "positions", "problem",
        "touched",
    ),
    "records": ("files", "json_lines", "sheets"),
    "truth": ("oracle",),
    "cli": ("exits", "paths"),
    "workers": ("progress",),
}  # fmt: skip
_ELSEWHERE = {
    "launch": "calls.kernel",
    "suites": "bench.suite_files",
    "bench.launch": "bench.start",
    "bench.record": "records.record",
    "bench.tolerance": "truth.tolerance",
    "bench.channel": "workers.channel",
    "bench.group": "workers.group",
    "conformance.calls": "conformance.blocks",
    "conformance.packed_judge": "conformance.judge",
    "conformance.truth": "conformance.expected",
    "conformance.verdict": "conformance.answer",
    "probe.finding": "records.finding",
    "probe.process": "workers.process",
    "report.statistics": "records.statistics",
    "tune.outcome": "records.outcome",
    "tune.csv": "records.outcome",
    "tune.choose": "records.choices",
    "records.tuning_csv": "records.outcome",
    "bench.environment": "machine.environment",
    "bench.listing": "machine.terminal",
    "machine.listing": "machine.terminal",
    "probe.compare": "probe.status_changes",
    "report.digits": "text.digits",
    "report.tables.table": "text.table",
    "report.coverage.table": "report.coverage.terminal",
    "ring.predicted_memory": "plan.memory",
    "ring.choose": "ring.backend_choice",
    "ring.run": "ring.passes",
    "relaunch.packed": "relaunch.parameters",
    "one_device.packed": "one_device.documents_way",
}
_OF_PLANS = ("Fetch", "Launch", "Layout", "Plan", "Send", "Step", "lone_plan", "plan")
_OLD = {name: f"{room}.{name}" for room, names in _ROOMS.items() for name in names} | _ELSEWHERE
_OLD |= {f"plan.{name}": f"plan.plans.{name}" for name in _OF_PLANS}
MOVED = {f"ring_attn_bench.{old}": f"ring_attn_bench.{new}" for old, new in _OLD.items()}
"""New names by old ones: of what pages named, or what others may have imported."""


class _Moved(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Raises ModuleNotFoundError for a name that was one.

        Its `name` is the new one, because `from package import name` passes over the old one's.
        """
        if (new := MOVED.get(fullname)) is not None:
            raise ModuleNotFoundError(f"{fullname} is {new} now.", name=new)


def install() -> None:
    """Once; a second time changes nothing."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
