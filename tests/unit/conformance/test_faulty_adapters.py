"""Each planted fault is found in the features that it spoils, and in those alone."""

from dataclasses import dataclass

import pytest
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.conformance.answer import Answer, worst
from ring_attn_bench.conformance.ask import ask
from ring_attn_bench.conformance.features import FEATURES
from ring_attn_bench.conformance.features.cache import CACHE
from ring_attn_bench.records.direction import DIRECTIONS, Direction
from ring_attn_bench.records.status import Status
from tests.unit.conformance import faulty_adapters as bad
from tests.unit.conformance import faulty_caches as caches
from tests.unit.conformance import faulty_extras as extras

CPU = "cpu"
BOTH = DIRECTIONS
FORWARD, BACKWARD = (Direction.FORWARD,), (Direction.BACKWARD,)


@dataclass(frozen=True)
class Fault:
    """An adapter, features that must be found wrong, and features that it leaves alone."""

    adapter: type[ReferenceBackend]
    spoils: str
    directions: tuple[Direction, ...] = FORWARD
    spares: str = ""
    says: str = ""


FAULTS = [
    Fault(bad.Log2Lse, "full causal", says="base 2"),
    Fault(bad.Log2Lse, "blocks_add_up", BOTH),
    Fault(bad.ZeroLse, "full causal blocks_add_up"),
    Fault(bad.SixteenBitLse, "full float32"),
    Fault(bad.LseInBfloat16, "full bfloat16", says="lse is torch.bfloat16"),
    Fault(bad.SaysThatItRounds, "bfloat16 float16", BACKWARD, "full float32", says="rounds_gr"),
    Fault(bad.TransposedLse, "full", says="lse has shape"),
    Fault(bad.StridedLse, "full", says="stride"),
    Fault(bad.LargeRowsLost, "large_scores", BOTH, "softmax_scale softcap alibi causal"),
    Fault(bad.LargestScoreIsZero, "large_scores", spares="softmax_scale alibi causal"),
    Fault(bad.IgnoredWindow, "window_causal window_both_sides window_corner", BOTH, "causal"),
    Fault(bad.HalfAWindow, "window_one_side", BOTH, "window_causal window_both_sides"),
    Fault(bad.ZeroIsNoWindow, "window_causal", BOTH, "causal"),
    Fault(bad.StrictlyCausal, "causal causal_bottom_right", BOTH),
    Fault(bad.LateCausal, "causal causal_bottom_right gqa", BOTH),
    Fault(bad.TopLeftCausal, "causal_bottom_right", BOTH, "causal causal_top_left offset"),
    Fault(bad.BottomRightCausal, "causal_top_left", BOTH, "causal causal_bottom_right"),
    Fault(bad.DefaultScale, "softmax_scale", BOTH, "causal head_dim_128"),
    Fault(bad.IgnoredSoftcap, "softcap", BOTH, "causal"),
    Fault(bad.AlibiOfTheFirstBatchEntry, "alibi alibi_stripes", BOTH, "alibi_offset"),
    Fault(bad.AlibiByIndex, "alibi_stripes alibi_offset", BOTH, "alibi causal"),
    Fault(bad.StridesOfContiguous, "strides_token_major strides_heads_first strides_cut",
          BOTH, "causal"),
    Fault(bad.DoutByPointer, "strides_heads_first strides_expanded", BACKWARD, "strides_packed"),
    Fault(bad.LseByPointer, "full causal", BACKWARD),
    Fault(bad.HeadsInterleaved, "gqa", spares="mqa causal"),
    Fault(bad.LocalLse, "blocks_add_up", BACKWARD, "causal"),
    Fault(bad.MissingDelta, "full causal", BACKWARD),
    Fault(bad.LastKeyLost, "full causal one_key"),
    Fault(bad.TailNotWritten, "full odd_lengths one_row"),
    Fault(bad.DqAddedToWhatIsThere, "full causal gqa", BACKWARD),
    Fault(bad.QueriesScaledInPlace, "full", says="q, an input, was written to"),
    Fault(bad.Unstable, "deterministic", BACKWARD, "causal", says="other bits"),
    Fault(bad.NarrowValues, "head_dim_v_larger", spares="head_dim_128 head_dim_v_smaller"),
    Fault(extras.OnlyOneDropout, "dropout", BACKWARD, "causal"),
    Fault(extras.DropoutOfOtherCalls, "dropout", spares="causal", says="called again"),
    Fault(extras.DropoutOfOneSeed, "dropout", says="another seed"),
    Fault(extras.DropoutUnscaled, "dropout", spares="causal"),
    Fault(extras.DropoutOfTheFirstHead, "dropout", spares="causal", says="several heads"),
    Fault(extras.DropoutOfOneBlock, "dropout", spares="causal", says="another block"),
    Fault(extras.DropoutOfItsOwn, "dropout", spares="causal", says="says it drops so"),
    Fault(extras.DropoutTooOften, "dropout", says="standard deviations"),
    Fault(extras.NeverFirst, "in_place", BACKWARD, "blocks_add_up"),
    Fault(extras.KeysAlwaysFirst, "in_place", BACKWARD, "blocks_add_up"),
    Fault(extras.ForgetsTheTarget, "in_place", spares="blocks_add_up"),
    Fault(extras.ReplacesLse, "in_place", spares="blocks_add_up"),
    Fault(extras.PackedAsOne, "documents documents_causal", BOTH, "causal"),
    Fault(extras.PackedWithStaleEmptyRows, "documents_empty_rows", spares="documents"),
    Fault(extras.AnyDocument, "ring_documents ring_documents_uneven ring_cross", spares="causal"),
    Fault(extras.OwnRankAlone, "ring_documents ring_documents_window ring_cross", spares="causal"),
    Fault(caches.AllTheRoom, "cache cache_queries cache_paged"),
    Fault(caches.PaddingSeen, "cache_leftpad", spares="cache cache_append"),
    Fault(caches.RowsInOrder, "cache_rows", spares="cache cache_append"),
    Fault(caches.PagesInOrder, "cache_paged", spares="cache cache_append full"),
    Fault(caches.Forgetful, "cache_append cache_rotary", spares="cache", says="k_cache is out by"),
    Fault(caches.Untidy, "cache cache_append cache_paged", spares="full", says="v_cache, an input"),
    Fault(caches.TurnedAlike, "cache_rotary", spares="cache_append cache_queries"),
    Fault(caches.TurnedInHalves, "cache_rotary", spares="cache_append"),
    Fault(caches.EndsAtTheLastOfOld, "cache_append", spares="cache cache_queries"),
    Fault(caches.SinkDropped, "cache_sink", spares="cache cache_queries"),
]  # fmt: skip


class Everything(caches.WithSinks, extras.Packed):
    """The reference, sound, with what it lacks."""


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES.keys())
def test_a_sound_backend_has_every_feature(feature, direction):
    assert ask(Everything(), feature, direction, CPU) == right(feature, direction)


def right(feature, direction):
    """The answer of a sound backend that has everything."""
    if feature in CACHE.features and direction is Direction.BACKWARD:
        return Answer(Status.UNSUPPORTED, "attention over a cache is forward only")
    return Answer(Status.OK)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.adapter.__name__)
def test_a_planted_fault_is_found_where_it_is(fault):
    for name in fault.spoils.split():
        for direction in fault.directions:
            answer = ask(fault.adapter(), FEATURES[name], direction, CPU)
            assert answer.status is Status.WRONG, f"{name}, {direction}: {answer}"
            assert fault.says in answer.reason
    for name in fault.spares.split():
        for direction in DIRECTIONS:
            answer = ask(fault.adapter(), FEATURES[name], direction, CPU)
            wanted = right(FEATURES[name], direction).status
            assert answer.status is wanted, f"{name}, {direction}: {answer}"


def test_a_backend_that_raises_is_an_error_in_its_own_words():
    answer = ask(bad.Raises(), FEATURES["full"], Direction.FORWARD, CPU)

    assert answer.status is Status.ERROR
    assert "RuntimeError: planted: CUDA error" in answer.reason
    assert answer.reason.startswith("full-float32: ")


def test_a_refusal_that_comes_when_it_is_called_was_not_declared():
    answer = ask(bad.RefusesWhenCalled(), FEATURES["one_key"], Direction.FORWARD, CPU)

    assert answer.status is Status.UNSUPPORTED
    assert not answer.declared
    assert "only when called" in answer.reason
    assert "single key" in answer.reason


def test_the_answer_to_a_feature_is_the_worst_to_its_cases():
    right, refused = Answer(Status.OK), Answer(Status.UNSUPPORTED, "it has none")
    late = Answer(Status.UNSUPPORTED, "not now", declared=False)
    wrong = Answer(Status.WRONG, "out is out")
    assert worst([right, right]) == right
    assert worst([right, refused, right]) == refused
    assert worst([refused, late]) == late
    large = Answer(Status.OOM, "out of memory")
    assert worst([refused, large, right]) == large
    assert worst([refused, wrong, large, Answer(Status.ERROR, "it raised")]) == wrong


def test_a_quick_look_is_at_the_first_case_alone():
    feature = FEATURES["window_causal"]
    assert len(feature.chosen(CPU, "float16", quick=True)) == 1
    assert {case.dtype for case in feature.chosen(CPU, "float16")} == {"float16"}
    assert len(feature.chosen("cuda", "float16")) > len(feature.chosen(CPU, "float16"))
