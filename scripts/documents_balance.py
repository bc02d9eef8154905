"""How evenly partitions deal the work of packed documents to ranks, and what that takes the host.

    python scripts/documents_balance.py [--ranks 8] [--tokens 16384] [--batches 64] [--full]

Batches are drawn from a published histogram of document lengths (configs/document_lengths.csv).
Imbalance is the busiest rank's visible pairs over the mean of all: 1 is perfect. Beside it stand
what a rank fetches of the others in a pass, in percent of what it holds, and milliseconds of the
host: of a batch's value, and of a plan of one launch, the mean of the ranks'. No GPU is needed.
"""

from __future__ import annotations

import argparse
import time
from statistics import mean

from measuring.batches import batches

from ring_attn_bench import documents
from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import Plan, plan
from ring_attn_bench.plan.positions import Band

ABLE = Abilities(frozenset(Form), gathers=True)


def main() -> None:
    """Prints a line for each partition."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16384, help="of each rank")
    parser.add_argument("--batches", type=int, default=64)
    parser.add_argument("--full", action="store_true", help="no causal mask")
    asked = parser.parse_args()
    drawn = list(batches(asked.ranks * asked.tokens, asked.batches))
    band = Band() if asked.full else Band(low=0)
    print(f"{mean(len(starts) - 1 for starts in drawn):.0f} documents a batch")
    print(f"{'':12} imbalance  worst  fetched %  value ms  plan ms")
    for name in (*PARTITIONS, *DEALS):
        made, value = [], 0.0
        for starts in drawn:
            began = time.perf_counter()
            made.append(documents(starts, name, asked.ranks, causal=not asked.full))
            value += time.perf_counter() - began
        found = [batch.imbalance(band) for batch in made]
        began = time.perf_counter()
        plans = [planned(batch, rank, band) for batch in made[:4] for rank in range(asked.ranks)]
        seconds = (time.perf_counter() - began) / len(plans)
        fetched = mean(one.fetched_tokens for one in plans) / asked.tokens
        print(
            f"{name:12} {mean(found):9.3f} {max(found):6.3f} {fetched:10.0%} "
            f"{value / len(drawn) * 1e3:9.2f} {seconds * 1e3:8.1f}"
        )


def planned(batch: DealtDocuments, rank: int, band: Band) -> Plan:
    """The rank's plan of one launch."""
    ranks = batch.world_size
    where = batch.partition, ranks, batch.tokens, band, 1, (ranks - 1,)
    found = plan(Layout(*where, one_launch=True, documents=batch.apart), rank, ABLE)
    assert not isinstance(found, str)  # a kernel that gathers can do all of it
    return found


if __name__ == "__main__":
    main()
