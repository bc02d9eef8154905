"""What a person sees of a run: who is slow, how long it still takes, what the dead have said."""

import io

import pytest
from rich.console import Console

from ring_attn_bench.bench import progress as shown
from ring_attn_bench.records.record import Samples, Speed
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers import progress as lines


@pytest.fixture
def printed(monkeypatch):
    """Runs lines through a Progress whose clock moves 10 s with each look; what is printed."""
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(lines.time, "monotonic", lambda: float(next(now)))

    def run(tell, *, quiet=False, verbose=False):
        text = io.StringIO()
        console = Console(file=text, width=200, quiet=quiet)
        with shown.Progress(console, verbose=verbose) as progress:
            tell(progress)
        return text.getvalue()

    return run


def test_once_something_is_done_a_case_says_how_long_the_rest_takes(printed, make_record):
    def tell(progress):
        progress.heading([], 4)
        progress.case("first", 2)
        progress.record(make_record())
        progress.case("second", 1)

    first, _, second = printed(tell).splitlines()

    assert first == "0:10  first  (2 contestants)"
    assert second == "0:30  second  (1 contestant, about 1:00 left)"


def test_a_rank_that_is_far_slower_than_its_work_says_is_in_its_line(printed, make_record):
    samples = Samples(ring=[[1.0, 5.0], [1.0, 5.0]])
    speed = Speed(samples=samples, useful_flops=1, devices=2, imbalance=1.0)

    said = printed(lambda progress: progress.record(make_record(speed=speed)))

    assert said.rstrip().endswith("; rank 1 takes 5 times as long as the others")


@pytest.mark.parametrize("verbose", [True, False])
def test_last_words_of_workers_are_shown_on_request(printed, make_record, verbose):
    died = make_record(status=Status.ERROR, reason="it died", stderr=["its last words"])

    said = printed(lambda progress: progress.record(died), verbose=verbose)

    assert "it died" in said
    assert ("its last words" in said) is verbose


def test_a_quiet_run_prints_no_lines(printed, make_record):
    assert printed(lambda progress: progress.record(make_record()), quiet=True) == ""
