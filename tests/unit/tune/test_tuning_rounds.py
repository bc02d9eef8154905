"""How trials are verified, timed and judged again, by calls of backends that count and fail."""

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.contract.tunable import Trial
from ring_attn_bench.records.outcome import OUTPUTS, TimedShape, TypedTrial
from ring_attn_bench.records.status import Status
from ring_attn_bench.tune import timing
from ring_attn_bench.tune.verify import cases
from tests.harness.planted.planted_tuning import compute

SHAPE = TimedShape(seqlen=32, heads_q=2, heads_kv=1)


def subjects(*configs, kernel="forward"):
    return [
        TypedTrial(trial=Trial(kernel, "one", 16, ("float32",), config, False), dtype="float32")
        for config in configs
    ]


class Counting(ReferenceBackend):
    """Notes which trial is launched with which mask; what it writes, it writes by half if told."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def trial_launch(self, trial, tensors, block, score, *, add):
        def launch():
            self.calls.append((trial.config, block.form.value))
            if trial.config == "raises":
                raise RuntimeError("planted")
            if trial.config == "large":
                raise torch.OutOfMemoryError("planted")
            outputs = OUTPUTS[trial.kernel]
            held = tensors.rows if trial.kernel == "forward" else tensors.sums
            for name in outputs[:1] if trial.config == "half" else outputs:
                getattr(held, name).fill_(1.0)

        return launch


@pytest.fixture
def unjudged(monkeypatch):
    """What counts, computes nothing."""
    monkeypatch.setattr(timing, "_judge_again", lambda *_: None)


def timed(backend, *configs, rounds=8, seconds=60.0, kernel="forward"):
    return timing.time_row(
        backend, subjects(*configs, kernel=kernel), SHAPE, rounds, seconds, "cpu"
    )


@pytest.mark.usefixtures("unjudged")
def test_every_round_has_every_trial_once_with_each_mask_in_another_order():
    backend = Counting()
    found = timed(backend, "a", "b", "c", rounds=8)

    first = [(config, mask) for mask in ("full", "causal") for config in "abc"]
    assert backend.calls[:6] == first  # once each, before anything is timed
    rounds = [backend.calls[6 + 6 * n : 12 + 6 * n] for n in range(8)]
    assert len(backend.calls) == 6 * 9
    assert all(sorted(each) == sorted(first) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 4
    assert all(len(times) == 8 for x in found for times in x.times.values())


@pytest.mark.usefixtures("unjudged")
def test_a_slow_row_has_the_fewest_rounds_that_give_an_interval():
    found = timed(Counting(), "a", rounds=50, seconds=0.0)

    assert {len(times) for times in found[0].times.values()} == {timing.FEWEST_ROUNDS}


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize("kernel", ["forward", "backward_dkdv"])
def test_what_fails_when_it_is_first_timed_costs_itself_alone(kernel):
    backend = Counting()
    raises, half, large, right = timed(backend, "raises", "half", "large", "right", kernel=kernel)

    assert (large.status, large.reason) == (Status.OOM, "when timed, out of memory: planted")
    assert (raises.status, half.status) == (Status.ERROR, Status.WRONG)
    assert "RuntimeError: planted" in raises.reason
    assert f"{OUTPUTS[kernel][1]} is not written everywhere" in half.reason
    assert not any(times for x in (raises, half) for times in x.times.values())
    assert all(len(times) == 8 for times in right.times.values())
    assert backend.calls.count(("raises", "full")) == 1
    assert ("raises", "causal") not in backend.calls


def test_it_is_verified_on_lengths_that_no_tile_divides_with_and_without_groups():
    (subject,) = subjects("a")
    for device in ("cpu", "cuda"):
        found = cases(subject, device)
        lengths = {n for case in found for n in (case.block.row_count, case.block.key_count)}
        groups = {case.heads // case.key_heads for case in found}

        assert all(length % 16 for length in lengths)
        assert groups == {1, 2}
        assert max(lengths) > 128
        assert torch.float32 in {case.torch_dtype for case in found}


class Later(ReferenceBackend):
    """Computes; `counts` is 5 % off from its ninth call on, `remembers` gives its first answer.

    And `raises` does so from its ninth call on.
    """

    def trial_launch(self, trial, tensors, block, score, *, add):
        calls, known = [], {}

        def launch():
            calls.append(1)
            compute(self, trial, tensors, block, score, add)
            held = tensors.rows if trial.kernel == "forward" else tensors.sums
            for name in OUTPUTS[trial.kernel]:
                result = getattr(held, name)
                if trial.config == "counts" and len(calls) > 8:
                    result.mul_(1.05)
                if trial.config == "remembers":
                    result.copy_(known.setdefault(name, result.clone()))
            if trial.config == "raises" and len(calls) > 8:
                raise RuntimeError("planted")

        return launch


@pytest.mark.parametrize("kernel", list(OUTPUTS))
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_what_is_right_at_first_and_wrong_after_it_was_timed_has_no_speed(kernel, dtype):
    found = subjects("right", "counts", "remembers", "raises", kernel=kernel)
    found = [x.model_copy(update={"dtype": dtype}) for x in found]
    right, *others = timing.time_row(Later(), found, SHAPE, 7, 60.0, "cpu")

    assert (right.status, right.reason) == (Status.OK, "")
    assert [x.status for x in others] == [Status.WRONG, Status.WRONG, Status.ERROR]
    for x in others[:2]:
        assert x.reason.startswith(
            "right before it was timed, and wrong afterwards on other inputs: full, "
            f"{OUTPUTS[kernel][0]} is out by "
        )
    assert "RuntimeError: planted" in others[2].reason
