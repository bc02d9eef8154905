"""--trace: what it reaches, and what it is refused with."""

from ring_attn_bench.bench import start
from ring_attn_bench.errors import InvalidArgument


def test_a_run_is_looked_at_where_that_was_asked_for(machine, typed, monkeypatch):
    seen, execute = [], machine.execute
    monkeypatch.setattr(
        start, "execute", lambda run, *rest: (seen.append(run.trace), execute(run, *rest))
    )
    for words in ("", "--trace"):
        done = typed(f"ring-attn-bench bench --suite small.toml --out 'out{words}' {words}")
        assert done.exit_code == 0, done.output
    assert seen == [False, True]


def test_what_is_not_timed_cannot_be_looked_at(machine, typed):
    done = typed(
        "ring-attn-bench bench --suite small.toml --set timing.enabled=false --trace --out out"
    )
    assert isinstance(done.exception, InvalidArgument)
    assert "suite 'small' times none" in str(done.exception)
    assert machine.ran == ()
    assert typed("ring-attn-bench check --suite small.toml --trace").exit_code == 2
