"""What is advised, what is not, and how it is said."""

import json
from itertools import pairwise

import pytest

from ring_attn_bench.advise import as_json, terminal
from ring_attn_bench.advise.answer import advised
from ring_attn_bench.advise.estimate import HowKnown
from ring_attn_bench.advise.figures import CPU
from ring_attn_bench.advise.model import options
from ring_attn_bench.advise.question import Question, heads, mebibytes
from ring_attn_bench.errors import InvalidArgument, UnknownName
from ring_attn_bench.records.status import Status
from tests.unit.advise import committed

FIGURES = committed.figures()


def asked(**changes):
    known = {"heads_q": 32, "heads_kv": 8, "head_dim": 128, "tokens": 2 * 16384, "gpus": 2}
    return Question(**{**known, **changes})


def test_what_was_measured_is_what_is_expected():
    advice = advised(asked(), FIGURES)
    best = advice.best

    assert best.known is HowKnown.MEASURED
    assert best.ms == best.of[0].ms == min(each.ms for each in advice.ways)
    assert best.memory == pytest.approx(best.inputs + best.of[0].call + best.of[0].kept)
    assert best.inputs == 2 * 16384 * 128 * (32 + 2 * 8 + 32) / 2**20


def test_what_does_not_fit_is_not_advised_and_told():
    free = advised(asked(), FIGURES)
    limit = free.best.memory - 1
    advice = advised(asked(memory=limit), FIGURES)

    assert free.best.way in {each.way for each in advice.too_large}
    assert all(each.memory <= limit for each in advice.ways)
    assert advice.best.ms >= free.best.ms
    shown = terminal.text(advice, 100)
    assert "Not advised, because it is not known to fit into" in shown
    assert free.best.way.name in shown


def test_where_nothing_fits_that_and_the_least_is_said():
    advice = advised(asked(memory=100.0), FIGURES)

    assert advice.best is advice.best_ours is None
    assert "Nothing fits into 100 MiB: the least is " in terminal.text(advice, 100)
    assert json.loads(as_json.text(advice))["best"] is None


def test_memory_that_was_not_measured_is_not_known_to_fit():
    nobody = [f.model_copy(update={"call": None}) for f in FIGURES]

    assert advised(asked(), nobody).best.memory is None
    assert advised(asked(memory=1e9), nobody).best is None


def failing(figure, **changes):
    update = {"status": Status.WRONG, "ms": 0.0, "started_at": "2027", "run": "later", **changes}
    return figure.model_copy(update=update)


def test_a_way_that_failed_at_the_shape_the_last_time_is_not_advised_and_told():
    best = advised(asked(), FIGURES).best
    advice = advised(asked(), [*FIGURES, failing(best.of[0])])

    assert best.way not in {each.way for each in advice.ways}, "nor from other lengths"
    assert [each.way for each in advice.failed] == [best.way]
    shown = " ".join(terminal.text(advice, 100).split())
    assert f"it failed at this shape the last time: {best.way.name}: wrong (later)" in shown
    (said,) = json.loads(as_json.text(advice))["failed"]
    assert (said["name"], said["status"], said["run"]) == (best.way.name, "wrong", "later")


def test_where_all_of_a_run_is_wrong_since_then_nothing_is_advised():
    here = [each.of[0] for each in advised(asked(), FIGURES).ways]
    forward = advised(asked(backward=False), FIGURES).best.of[0]
    advice = advised(asked(), [*here, forward, *(failing(each) for each in here)])

    assert advice.best is None
    assert "No way that was measured is right at this shape." in terminal.text(advice, 100)
    with pytest.raises(InvalidArgument, match="no time of plain attention that is right"):
        advised(asked(), [failing(each) for each in here])


def test_a_failure_at_another_length_leaves_what_is_right_at_this_one():
    best = advised(asked(), FIGURES).best
    shape = best.shape.model_copy(update={"seqlen_per_gpu": 2 * best.shape.seqlen_per_gpu})
    advice = advised(asked(), [*FIGURES, failing(best.of[0], shape=shape)])

    assert advice.best.way == best.way
    assert advice.failed == ()


def test_records_without_a_gpu_are_of_ranks():
    on_cpu = [x.model_copy(update={"shape": x.shape.model_copy(update={"gpu": CPU})})
              for x in FIGURES if x.shape.world_size == 2]  # fmt: skip
    shown = terminal.text(advised(asked(), on_cpu), 100)

    assert shown.startswith("2 CPU ranks, 32K tokens, 16K a rank, ")
    assert " TFLOP/s a rank; " in shown
    assert "GPU" not in shown.partition("What is known")[0]


def test_a_dtype_that_no_model_has_is_no_dtype_of_the_records():
    shape = FIGURES[0].shape.model_copy(update={"dtype": "float8_e4m3fn"})
    figures = [*FIGURES, FIGURES[0].model_copy(update={"shape": shape})]

    assert advised(asked(), figures).best == advised(asked(), FIGURES).best
    with pytest.raises(UnknownName, match="dtype of the records"):
        advised(asked(dtype="float8_e4m3fn"), figures)


def test_without_a_limit_the_memory_of_that_gpu_is_one():
    advice = advised(asked(tokens=2 * 16777216), FIGURES)

    assert advice.best is None
    assert "Nothing fits into 143,155 MiB, all that such a GPU has" in terminal.text(advice, 100)
    assert json.loads(as_json.text(advice))["limit_mib"] == pytest.approx(139.8 * 1024)
    assert advised(asked(memory=9000.0), FIGURES).limit == 9000.0


@pytest.mark.parametrize("gpus", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("per_gpu", [1536, 12288, 65536])
def test_ours_can_be_estimated_for_any_ring_and_every_guess_is_said(gpus, per_gpu):
    advice = advised(asked(tokens=gpus * per_gpu, gpus=gpus), FIGURES)

    assert len(advice.ways) > 5
    for each in advice.ways:
        assert each.ms > 0
        assert each.memory > 0
        guessed = each.known in (HowKnown.BEYOND, HowKnown.ELSEWHERE)
        assert guessed == ("by the model" in each.words)
        assert each.way.is_ours or not guessed
    if advice.best.known in (HowKnown.BEYOND, HowKnown.ELSEWHERE):
        assert "extrapolated" in next(advice.why())


def test_longer_takes_longer_and_more_memory():
    ways = [
        {x.way: x for x in advised(asked(tokens=2 * n), FIGURES).ways}
        for n in (8192, 12288, 16384, 24576, 32768, 65536)
    ]
    for shorter, longer in pairwise(ways):
        for way in shorter.keys() & longer.keys():
            assert shorter[way].ms < longer[way].ms, way.name
            assert shorter[way].call < longer[way].call, way.name


def test_one_gpu_is_no_ring_and_is_advised_from_one_gpu():
    advice = advised(asked(heads_q=16, heads_kv=4, tokens=16384, gpus=1), FIGURES)

    assert {each.of[0].shape.world_size for each in advice.ways} == {1}
    assert f"flash_attn_func(..., backend='{advice.best.way.backend}')" in terminal.text(
        advice, 100
    )


def test_gpus_that_no_model_knows_are_measured_or_nothing():
    advice = advised(asked(heads_q=16, heads_kv=4, tokens=4 * 8192, gpus=4, gpu="h100"), FIGURES)
    assert advice.shape.gpu == "NVIDIA H100 80GB HBM3"
    assert {each.known for each in advice.ways} == {HowKnown.MEASURED}
    assert advised(asked(tokens=4 * 4096, gpus=4, gpu="h100"), FIGURES).ways == ()


def test_where_a_peer_is_the_fastest_ours_is_named_too():
    advice = advised(
        asked(tokens=4 * 4096, gpus=4, backward=False), committed.figures(committed.PEERS)
    )

    assert not advice.best.way.is_ours
    assert any("It is a peer's ring; of ours " in line for line in advice.why())
    assert json.loads(as_json.text(advice))["best_ours"]["backend"] == advice.best_ours.way.backend


def test_the_reasons_are_by_backend_transport_and_schedule():
    said = "\n".join(advised(asked(tokens=2 * 4096, backward=False), FIGURES).why())

    assert f"Its time was measured, 0.465 to 0.511 ms with 95 % ({committed.RING})." in said
    assert "Backend flash_attn_4 takes" in said


def test_what_is_shown_keeps_to_the_terminal_and_can_be_pasted():
    advice = advised(asked(tokens=2 * 4096, backward=False), FIGURES)
    shown = terminal.text(advice, 80)

    assert max(map(len, shown.splitlines())) <= 80
    assert "zigzag_ring_flash_attn_func(..., backend='triton'," in " ".join(shown.split())
    assert options(advice.best.way).schedule == "one_launch"
    assert len(terminal.text(advice, 80, every=True)) > len(shown)


def test_json_has_all_of_it_and_no_number_that_json_lacks():
    advice = advised(asked(memory=3000.0), FIGURES)
    said = json.loads(as_json.text(advice), parse_constant=pytest.fail)

    assert said["best"] == said["ways"][0]
    assert said["best"]["from"][0]["run"] == committed.RING
    assert len(said["ways"]) == len(advice.ways)
    assert said["asked"]["memory_mib"] == 3000.0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"head_dim": 96}, InvalidArgument, "have 64 or 128"),
        ({"dtype": "float32"}, UnknownName, "bfloat16"),
        ({"gpu": ""}, InvalidArgument, "gpu is empty"),
        ({"gpu": "B200"}, UnknownName, "NVIDIA H200"),
        ({"tokens": 32769}, InvalidArgument, "multiple of 4, as 32768 or 32772"),
        ({"tokens": 1}, InvalidArgument, r"multiple of 4, as 4\."),
        ({"gpus": 65}, InvalidArgument, "at most 64"),
        ({"batch": 10**12}, InvalidArgument, "at batch"),
    ],
)
def test_what_no_record_can_be_compared_with_is_a_sentence(changes, error, words):
    with pytest.raises(error, match=words):
        advised(asked(**changes), FIGURES)


def test_no_figures_are_a_sentence():
    with pytest.raises(InvalidArgument, match="--records"):
        advised(asked(), ())


def test_numbers_are_read_as_people_write_them():
    assert [heads(text) for text in ("32:8", "32", " 16:16 ")] == [(32, 8), (32, 32), (16, 16)]
    assert mebibytes("1GiB") == 1024
    assert mebibytes("40 GB") == pytest.approx(38147, abs=1)


@pytest.mark.parametrize(
    ("read", "text"),
    [(heads, "8:3"), (heads, "a:b"), (heads, "0"),
     (mebibytes, "40"), (mebibytes, "0GB"), (mebibytes, "40 apples")],
)  # fmt: skip
def test_other_numbers_are_a_sentence(read, text):
    with pytest.raises(InvalidArgument):
        read(text)
