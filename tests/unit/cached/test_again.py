"""Steps over a cache that are made again without being looked at."""

import pytest
import ring_attn_backends
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import InvalidArgument, flash_attn_with_kvcache
from ring_attn_bench.cached import again, call
from ring_attn_bench.contract.cache import CachedResults

BATCH, ROOM, HEADS, KEY_HEADS, DIM = 2, 16, 4, 2, 8


class Repeating(ReferenceBackend):
    """Has its calls made again, by what it was given at first and new tensors."""

    name = "repeating"
    cached_sinks = True
    again: list
    refuses = False

    def cached_repeatable(self, call):
        out, lse = self.cached_forward(call._replace(sink=None))

        def made_again(tensors, *, wants_lse):
            if Repeating.refuses:
                return None
            Repeating.again.append(tensors)
            return (out + 1, lse if wants_lse else None)

        return CachedResults(out, lse, made_again)


@pytest.fixture(autouse=True)
def looks(monkeypatch):
    """How often a call was looked at, of a backend on what counts as a GPU."""
    seen = []
    whole = call.way_for

    def way_for(*arguments):
        seen.append(arguments)
        return whole(*arguments)

    monkeypatch.setitem(ring_attn_backends.BACKENDS, Repeating.name, f"{__name__}:Repeating")
    monkeypatch.setattr(Repeating, "again", [], raising=False)
    monkeypatch.setattr(Repeating, "refuses", False)
    monkeypatch.setattr(again, "_made", type(again._made)())
    monkeypatch.setattr(call, "_ways", type(call._ways)())
    monkeypatch.setattr(again, "_is_on_gpu", lambda _: True)
    monkeypatch.setattr(call, "way_for", way_for)
    return seen


def tensors(queries=1, dtype=torch.float32):
    q = torch.randn(BATCH, queries, HEADS, DIM, dtype=dtype)
    return q, *(torch.randn(BATCH, ROOM, KEY_HEADS, DIM, dtype=dtype) for _ in range(2))


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def step(*given, **options):
    return flash_attn_with_kvcache(*given, backend=Repeating.name, **options)


def test_a_second_step_is_made_again_for_its_own_tensors_in_the_contracts_order(looks):
    for _ in range(2):
        q, k_cache, v_cache = tensors()
        new = tensors()[1][:, :1], tensors()[2][:, :1]
        told = {"cache_seqlens": int32(3, 5), "cache_batch_idx": int32(1, 0),
                "cache_leftpad": int32(0, 1), "sink": torch.zeros(HEADS),
                "alibi_slopes": torch.ones(HEADS),
                "rotary_cos": torch.ones(ROOM, 2), "rotary_sin": torch.zeros(ROOM, 2)}  # fmt: skip
        step(q, k_cache, v_cache, *new, causal=True, **told)

    assert len(looks) == 1
    names = "cache_seqlens", "cache_batch_idx", "cache_leftpad", "sink"
    last = [*new, told["rotary_cos"], told["rotary_sin"], told["alibi_slopes"]]
    wanted = [q, k_cache, v_cache, *map(told.get, names), *last]
    (found,) = Repeating.again
    assert [x is y for x, y in zip(found, wanted, strict=True)] == [True] * len(wanted)


def test_an_lse_comes_where_it_is_wanted_and_out_alone_elsewhere():
    given = tensors()
    first = step(*given)

    assert torch.equal(step(*given), first + 1)
    out, lse = step(*given, return_softmax_lse=True)
    assert torch.equal(out, first + 1)
    assert lse.shape == (BATCH, HEADS, 1)


OTHERS = {
    "queries": lambda q, k, v: ((torch.cat([q, q], 1), k, v), {}),
    "dtype": lambda q, k, v: ((q.double(), k.double(), v.double()), {}),
    "strides": lambda q, k, v: ((q, k.transpose(1, 2).contiguous().transpose(1, 2), v), {}),
    "room": lambda q, k, v: ((q, k[:, :8], v[:, :8]), {}),
    "lengths": lambda q, k, v: ((q, k, v), {"cache_seqlens": int32(3, 3)}),
    "rows": lambda q, k, v: ((q, k, v), {"cache_batch_idx": int32(1, 0)}),
    "table": lambda q, k, v: ((q, k, v), {"block_table": int32(0, 1)[:, None]}),
    "causal": lambda q, k, v: ((q, k, v), {"causal": True}),
    "window": lambda q, k, v: ((q, k, v), {"window_size": (3, 0)}),
    "scale": lambda q, k, v: ((q, k, v), {"softmax_scale": 2.0}),
    "softcap": lambda q, k, v: ((q, k, v), {"softcap": 2.0}),
    "splits": lambda q, k, v: ((q, k, v), {"num_splits": 2}),
    "sink": lambda q, k, v: ((q, k, v), {"sink": torch.zeros(HEADS)}),
    "slopes": lambda q, k, v: ((q, k, v), {"alibi_slopes": torch.ones(HEADS)}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_step_that_looks_different_is_looked_at(other, looks):
    given = tensors()
    step(*given)
    others, told = OTHERS[other](*given)
    step(*others, **told)

    assert len(looks) == 2
    assert not Repeating.again


def test_one_that_cannot_be_made_again_this_time_is_looked_at(looks):
    given = tensors()
    first = step(*given)
    Repeating.refuses = True

    assert torch.equal(step(*given), first)
    assert len(looks) == 2


@pytest.mark.parametrize(
    "of",
    [
        lambda q: torch.cat([q, q], -1)[..., ::2],
        lambda q: torch.complex(q, q).conj().imag,
        lambda q: torch.nn.Parameter(q, requires_grad=False),
    ],
    ids=["a step between columns", "negated", "a parameter"],
)
def test_what_kernels_read_a_copy_of_is_copied_each_time(of, looks):
    q, *cache = tensors()
    for _ in range(3):
        step(of(q), *cache)

    assert len(looks) == 3
    assert not Repeating.again


def test_a_length_that_is_a_number_is_checked_each_time(looks):
    given = tensors()
    for _ in range(2):
        step(*given, cache_seqlens=3)
    with pytest.raises(InvalidArgument, match="cache_seqlens is 17"):
        step(*given, cache_seqlens=17)

    assert not Repeating.again


def test_what_requires_a_gradient_is_refused_after_a_step_that_did_not():
    q, *cache = tensors()
    with torch.no_grad():
        for _ in range(2):
            step(q.requires_grad_(), *cache)
    assert len(Repeating.again) == 1
    with pytest.raises(InvalidArgument, match="q requires a gradient"):
        step(q, *cache)


def test_a_cache_that_is_one_memory_is_refused_after_two_that_were_not():
    q, k_cache, v_cache = tensors()
    new, told = [x[:, :1] for x in tensors()[1:]], {"cache_seqlens": int32(3, 3)}
    for _ in range(2):
        step(q, k_cache, v_cache, *new, **told)
    with pytest.raises(InvalidArgument, match="one memory"):
        step(q, k_cache, k_cache, *new, **told)


def test_flags_that_are_numbers_are_looked_at(looks):
    given = tensors()
    step(*given, causal=True)
    step(*given, causal=1)
    with pytest.raises(InvalidArgument, match=r"causal is 1\.0"):
        step(*given, causal=1.0)

    assert not Repeating.again


ODD = {
    "none": lambda _: None,
    "a number": lambda _: torch.tensor(1.0),
    "sparse": lambda x: x.to_sparse(),
    "sparse by rows": lambda x: x[0, 0].to_sparse_csr(),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
}


@pytest.mark.filterwarnings("ignore:.*beta state", "ignore:.*nested tensors.*prototype")
@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("of", ODD.values(), ids=list(ODD))
def test_a_cache_without_memory_of_its_own_is_refused_in_a_sentence(of, on_gpu, monkeypatch):
    monkeypatch.setattr(again, "_is_on_gpu", lambda _: on_gpu)
    q, k_cache, v_cache = tensors()
    new, told = [x[:, :1] for x in tensors()[1:]], {"cache_seqlens": int32(3, 3)}
    latent = v_cache[..., :4]
    for given in ((of(k_cache), latent), (k_cache, of(latent)), (of(k_cache), of(latent))):
        for appended in ((), (new[0], new[1][..., :4])):
            with pytest.raises(InvalidArgument, match=r"[kv]_cache (must be|has shape)"):
                step(q, *given, *appended, **told)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch.func.jvp
@pytest.mark.parametrize("on_gpu", [False, True])
def test_torch_funcs_transforms_are_refused_after_a_step_without_them_too(on_gpu, monkeypatch):
    monkeypatch.setattr(again, "_is_on_gpu", lambda _: on_gpu)
    q, *cache = tensors()
    step(q, *cache)
    with pytest.raises(InvalidArgument, match="no rule for torch"):
        torch.vmap(lambda each: step(each, *cache))(q[None])
    with pytest.raises(InvalidArgument, match="no rule for torch"):
        torch.func.jvp(lambda each: step(each, *cache), (q,), (q,))
