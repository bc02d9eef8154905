"""A batch's documents as text, and of it again: what a traced graph can hold of them as bytes.

Two processes that write equal documents write equal text. Pure integers, as JSON.
"""

from __future__ import annotations

import json
from typing import Any

from ring_attn_bench.plan.deal import PerDocument
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.partition import PARTITIONS, Dealt, Partition, Rule
from ring_attn_bench.plan.positions import Span


def written(documents: DealtDocuments) -> bytes | None:
    """The documents as text; None where they are dealt by a partition of somebody else's."""
    rule = _rule(documents.partition)
    if rule is None:
        return None
    whole = documents.world_size, documents.tokens, documents.uneven, sorted(documents.void)
    return json.dumps([documents.starts, rule, *whole], separators=(",", ":")).encode()


def documents_of(text: bytes) -> DealtDocuments:
    """What was written."""
    starts, rule, world_size, tokens, uneven, void = json.loads(text)
    dealt = _partition(*rule)
    return DealtDocuments(tuple(starts), dealt, world_size, tokens, uneven, frozenset(void))


def _rule(rule: Rule) -> tuple[str, object] | None:
    if isinstance(rule, Partition) and PARTITIONS.get(rule.name) == rule:
        return "named", rule.name
    if type(rule) is PerDocument:
        return "per document", (rule.starts, rule.world_size, rule.local, rule.pieces)
    if type(rule) is Dealt:
        ranks = [[(s.start, s.count, s.step) for s in spans] for spans in rule.of_ranks]
        return "dealt", (rule.name, ranks)
    return None


def _partition(kind: str, of: Any) -> Rule:  # noqa: ANN401 - as `_rule` made it
    if kind == "named":
        return PARTITIONS[of]
    if kind == "per document":
        starts, *numbers = of
        return PerDocument(tuple(starts), *numbers)
    name, ranks = of
    return Dealt(name, tuple(tuple(Span(*span) for span in spans) for spans in ranks))
