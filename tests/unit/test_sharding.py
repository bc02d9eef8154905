"""shard, join_shards and position_ids: there and back, and gradients on the way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.errors import InvalidArgument, NoProcessGroup, UnknownName
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.sharding import join_shards, position_ids, shard, unshard

every_partition = pytest.mark.parametrize("partition", PARTITIONS)
WORLDS = st.integers(1, 6)


def shards_of(x, world_size, partition, dim):
    return [shard(x, rank, world_size, partition, dim) for rank in range(world_size)]


@every_partition
@settings(deadline=None)
@given(world_size=WORLDS, chunks=st.integers(1, 4), dim=st.integers(-3, 2))
def test_shards_of_a_tensor_join_to_it(partition, world_size, chunks, dim):
    shape = [2, 3, 5]
    shape[dim] = 2 * chunks * world_size
    x = torch.randn(shape)

    assert torch.equal(join_shards(shards_of(x, world_size, partition, dim), partition, dim), x)


@every_partition
@settings(deadline=None)
@given(world_size=WORLDS, chunks=st.integers(1, 4))
def test_a_shard_holds_the_tokens_that_its_position_ids_name(partition, world_size, chunks):
    seqlen = 2 * chunks * world_size
    x = torch.arange(seqlen)
    for rank in range(world_size):
        positions = position_ids(seqlen, rank, world_size, partition)
        spans = PARTITIONS[partition].spans(rank, world_size, seqlen // world_size)

        assert positions.dtype is torch.int64
        assert positions.tolist() == [at for span in spans for at in span.positions()]
        assert torch.equal(shard(x, rank, world_size, partition, dim=0), positions)


@every_partition
def test_a_shard_is_a_copy(partition):
    x = torch.zeros(1, 8, 2)
    shard(x, 1, 2, partition).fill_(1.0)
    shard(x, 0, 1, partition).fill_(1.0)
    assert not x.any()


@every_partition
def test_a_shards_gradient_goes_back_to_its_own_tokens_and_nowhere_else(partition):
    world_size, seqlen = 3, 12
    weights = torch.randn(world_size, 2, seqlen // world_size, 5, dtype=torch.float64)
    x = torch.randn(2, seqlen, 5, dtype=torch.float64, requires_grad=True)
    for rank, weight in enumerate(weights):
        (gradient,) = torch.autograd.grad((shard(x, rank, world_size, partition) * weight).sum(), x)
        own = position_ids(seqlen, rank, world_size, partition)

        assert torch.equal(gradient[:, own], weight)
        assert gradient.count_nonzero() == weight.numel()


@every_partition
def test_sharding_and_joining_is_differentiable_as_the_identity(partition):
    x = torch.randn(2, 12, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    (join_shards(shards_of(x, 3, partition, 1), partition) * weight).sum().backward()
    assert torch.equal(x.grad, weight)


@pytest.mark.parametrize("rank", [-1, 4, 5])
def test_a_rank_outside_the_world_is_refused(rank):
    with pytest.raises(InvalidArgument, match=rf"rank is {rank}; with world_size 4 .* \[0, 4\)"):
        shard(torch.zeros(1, 16, 2), rank, 4, "zigzag")


def test_a_length_that_cannot_be_dealt_is_refused_with_the_nearest_ones():
    with pytest.raises(InvalidArgument, match=r"1000 tokens .* the nearest are 992 and 1008\."):
        shard(torch.zeros(1, 1000), 0, 8, "zigzag")
    with pytest.raises(InvalidArgument, match=r"3 tokens .* the nearest is 8\."):
        position_ids(3, 0, 4, "zigzag")


@pytest.mark.parametrize(
    "call",
    [
        lambda name: position_ids(8, 0, 2, name),
        lambda name: shard(torch.zeros(1, 8), 0, 2, name),
        lambda name: join_shards([torch.zeros(1, 4)] * 2, name),
    ],
    ids=["position_ids", "shard", "join_shards"],
)
def test_an_unknown_partition_is_refused_by_name_everywhere(call):
    with pytest.raises(UnknownName, match=r"unknown partition 'zigzac'\. Did you mean 'zigzag'\?"):
        call("zigzac")


def test_unshard_without_a_process_group_says_how_to_get_one():
    with pytest.raises(NoProcessGroup, match=r"torchrun .*init_process_group\(\)"):
        unshard(torch.zeros(1, 8), "zigzag")


X = torch.zeros(1, 8, 2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: shard(X, 0, 2, 5), "unknown partition 5. Known: contiguous"),
        (lambda: shard(X, 0, 2, ["zigzag"]), "unknown partition"),
        (lambda: shard(X, 0, 2, "zigzag", 7), r"dim is 7; .* \(1, 8, 2\) has -3 to 2"),
        (lambda: shard(X[0, 0, 0], 0, 2, "zigzag"), r"shape \(\) has no dim to deal, got dim=1"),
        (lambda: join_shards([X[0, 0, 0]], "zigzag", 0), r"shape \(\) has no dim to deal"),
        (lambda: shard(X, 0, 2, "zigzag", None), "dim is None; it must be an integer"),
        (lambda: shard([1, 2], 0, 2, "zigzag"), "x must be a tensor, got list"),
        (lambda: position_ids(16, 1.5, 4, "zigzag"), "rank is 1.5; it must be an integer"),
        (lambda: position_ids("16", 1, 4, "zigzag"), "seqlen is '16'; it must be an integer"),
        (lambda: position_ids(16, 0, True, "zigzag"), "world_size is True; it must be an integer"),
        (lambda: join_shards([], "zigzag"), "at least one .* got none"),
        (lambda: join_shards([X, X[:, :4]], "zigzag"), r"one shape, got \(1, 4, 2\), \(1, 8, 2\)"),
        (lambda: join_shards(X, "zigzag"), "must be a list of tensors, got Tensor"),
        (lambda: join_shards([X, None], "zigzag"), "must be a tensor, got NoneType"),
        (lambda: join_shards([X, X.double()], "zigzag"), r"all of one dtype, got torch\.float32, "),
        (lambda: join_shards([X, X.to("meta")], "zigzag"), "all of one device, got cpu, meta"),
        (lambda: join_shards([X.to_sparse()], "zigzag"), "dense tensor, got a torch.sparse_coo"),
        (lambda: position_ids(10**30, 0, 1, "zigzag"), "integer of at most 64 bits"),
        (lambda: position_ids(10**5000, 0, 1, "zigzag"), "an integer that cannot be printed"),
        (lambda: position_ids(10**15, 0, 1, "zigzag"), "no rank holds more than 2147483647"),
        (lambda: position_ids(8, 0, 1, "zigzag", "nowhere"), "device is 'nowhere'"),
        (lambda: position_ids(8, 0, 1, "zigzag", 1.5), "device is 1.5; it must be a device"),
    ],
)
def test_what_cannot_be_dealt_or_joined_is_a_sentence(call, sentence):
    with pytest.raises((InvalidArgument, UnknownName), match=sentence):
        call()


def test_numpys_integers_are_integers():
    wanted = position_ids(16, 1, 4, "zigzag")
    assert torch.equal(position_ids(np.int64(16), np.int32(1), torch.tensor(4), "zigzag"), wanted)
    assert torch.equal(shard(X, 0, 2, "zigzag", -2), shard(X, 0, 2, "zigzag", 1))


@pytest.mark.parametrize("world_size", [0, -2])
def test_a_world_without_ranks_is_a_sentence(world_size):
    with pytest.raises(InvalidArgument, match=f"world_size is {world_size}; it must be at least 1"):
        position_ids(8, 0, world_size, "zigzag")
