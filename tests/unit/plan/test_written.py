"""Documents as text: the same value again, whatever they are and however they are dealt."""

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.document_sharding import dealt_documents
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.partition import PARTITIONS, OfOneSequence
from ring_attn_bench.plan.written import documents_of, written

LENGTHS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6)


@given(
    LENGTHS.filter(lambda lengths: any(length for length, _ in lengths)),
    st.sampled_from([*PARTITIONS, *DEALS]),
    st.integers(1, 4),
    st.booleans(),
)
def test_what_was_written_is_read_as_the_same_value(lengths, partition, ranks, pads):
    starts, used = [0], []
    for length, part in lengths:
        starts.append(starts[-1] + length)
        used.append(min(length, part) if pads else length)
    batch = dealt_documents(starts, partition, ranks, uneven=True, seqused=used)
    again = documents_of(written(batch))
    assert again == batch
    assert hash(again) == hash(batch)
    assert [again.spans(rank) for rank in range(ranks)] == [
        batch.spans(rank) for rank in range(ranks)
    ]
    assert again.partition.identity == batch.partition.identity


@dataclass(frozen=True)
class Theirs(OfOneSequence):
    """A partition that somebody else wrote, under a name of ours."""

    rule: OfOneSequence
    name: str = "balanced"

    @property
    def world_size(self):
        return self.rule.world_size

    @property
    def local(self):
        return self.rule.local

    @property
    def identity(self):
        return self.rule.identity

    def spans_of(self, rank):
        return self.rule.spans_of(rank)


def test_a_partition_of_somebody_elses_is_not_written():
    batch = dealt_documents([0, 3, 8], "balanced", 2)
    assert written(replace(batch, partition=Theirs(batch.partition))) is None
