"""The tables of results/*/README.md, and what else they say, are what their runs' CSV holds."""

import csv
import re
from pathlib import Path

import pytest
from ring_attn_backends.cute import ahead

ROOT = Path(__file__).parents[2]
CUTE, DECODE = "2026-12-01_1xH200_cute", "2026-12-01_1xH200_decode"
FLASH_ATTN = "peer:flash_attn[flash_attn_2]"


def rows(run):
    with (ROOT / "results" / run / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def words(page):
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def table(page, first):
    """The cells of the lines that begin like that."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines if line.startswith(f"| {first}")
    ]  # fmt: skip


@pytest.fixture(scope="module")
def cute():
    """How many times as fast as flash_attn_4: by head dim, mask, length, direction, column."""
    took = {
        (x["case"], x["direction"], column, x["backend"]): float(x[column])
        for x in rows(CUTE) for column in ("latency_ms", "graph_ms") if x[column]
    }  # fmt: skip
    return {
        key[:3]: took[*key[:3], "flash_attn_4"] / mine
        for key, mine in took.items() if key[3] == "cute"
    }  # fmt: skip


def test_the_table_of_cute_is_its_runs(cute):
    columns = [
        ("forward", 16384, "latency_ms"), ("forward", 8192, "latency_ms"),
        ("forward", 2048, "graph_ms"), ("backward", 16384, "latency_ms"),
        ("forward_backward", 16384, "latency_ms"), ("forward_backward", 8192, "latency_ms"),
        ("forward_backward", 2048, "graph_ms"),
    ]  # fmt: skip
    said = table(f"results/{CUTE}/README.md", "head dim")
    assert len(said) == 4
    for name, *cells in said:
        dim, mask = re.fullmatch(r"head dim (\d+), (\w+)", name).groups()
        keys = [
            (f"b1_s{tokens}_w1_h16-4_d{dim}_bfloat16_{mask}", way, column)
            for way, tokens, column in columns
        ]
        assert cells == [f"{cute[key]:.2f}" if key in cute else "" for key in keys], name


def test_short_calls_of_cute_in_a_loop_are_as_fast_as_its_page_says(cute):
    def of(direction):
        found = [
            ratio for (case, way, column), ratio in cute.items()
            if "_s2048_" in case and (way, column) == (direction, "latency_ms")
        ]  # fmt: skip
        return f"{min(found):.1f} to {max(found):.1f}"

    forward, backward, both = map(of, ("forward", "backward", "forward_backward"))
    said = f"forward {forward}, backward {backward}, both {both}."
    assert said in words(f"results/{CUTE}/README.md")


def test_power_and_clocks_of_cutes_run_are_those_of_its_long_rows():
    long = [x for x in rows(CUTE) if x["seqlen_total"] == "16384"]
    watts = [float(x["watts"]) for x in long if float(x["watts"]) >= 655]
    clocks = [float(x["sm_mhz"]) for x in long]
    said = words(f"results/{CUTE}/README.md")
    assert f"655 to {max(watts):.0f} W of 700 in {len(watts)} of {len(long)} rows" in said
    assert f"from {max(clocks):,.0f} to {min(clocks):,.0f} MHz" in said
    assert f"up to {100 * max(float(x['spread']) for x in long):.0f} % there" in said


def test_the_backward_that_adds_is_as_much_faster_as_the_table_of_its_readme():
    page = "backends/ring_attn_backends/cute/README.md"
    taken = [
        float(cells[2].strip("*")) / float(cells[1])
        for cells in table(page, "d") if len(cells) == 7 and cells[2].startswith("**")
    ]  # fmt: skip
    assert len(taken) == 10
    assert f"{min(taken):.2f} to {max(taken):.2f} times as fast where it is taken" in words(page)


def test_the_readme_of_cute_counts_what_is_compiled_ahead():
    counts = len(set(ahead.builds())), len(set(ahead.gathered_builds()))
    said = "{} kernels, {} of them over gathered keys".format(*counts)
    assert said in words("backends/ring_attn_backends/cute/README.md")


def case(entries, tokens, queries, heads="32-8", dim="128", extra=""):
    return f"b{entries}_s{1024 * tokens}_w1_h{heads}_d{dim}_bfloat16_causal_q{queries}{extra}"


@pytest.fixture(scope="module")
def decode():
    return {(x["case"], x["backend"]): x for x in rows(DECODE) if x["status"] == "ok"}


def times_as_fast(decode, name, column):
    """`triton` beside flash-attn 2's own function."""
    both = [decode.get((name, x)) for x in (FLASH_ATTN, "triton")]
    return f"{float(both[0][column]) / float(both[1][column]):.2f}" if all(both) else ""


def test_the_tables_of_decode_are_its_runs(decode):
    page = f"results/{DECODE}/README.md"
    one = [(1, 8), (1, 32), (1, 128), (8, 8), (8, 32), (8, 128), (32, 4), (64, 8), (64, 16)]
    (graph,), (loop,) = (table(page, x) for x in ("in a CUDA graph", "a call in a loop"))
    for cells, column in ((graph, "graph_ms"), (loop, "latency_ms")):
        assert cells[1:] == [times_as_fast(decode, case(*x, 1), column) for x in one]
    (read,) = table(page, "TB/s of K and V")
    rates = [float(decode[case(*x, 1), "triton"]["read_tbs"]) for x in one]
    assert read[1:] == [f"{rate:.2f}" for rate in rates]

    more = [(1, 8), (1, 32), (8, 8), (8, 32)]
    for name, queries, dim, column in (
        ("8, in a graph", 8, 128, "graph_ms"), ("8, in a loop", 8, 128, "latency_ms"),
        ("128, in a graph", 128, 128, "graph_ms"), ("2,048, in a graph", 2048, 128, "graph_ms"),
        ("2,048 of head dim 64", 2048, 64, "graph_ms"),
    ):  # fmt: skip
        (cells,) = table(page, name)
        made = [times_as_fast(decode, case(*x, queries, dim=dim), column) for x in more]
        assert cells[1:] == made, name


def test_the_table_of_latent_keys_is_its_runs(decode):
    page = f"results/{DECODE}/README.md"
    shapes = [(1, 8, ""), (8, 8, ""), (64, 8, ""), (64, 8, "_page64"), (128, 4, "")]
    rates = table(page, "TB/s of the keys")
    for heads, tbs in zip((16, 128), rates, strict=True):
        ours = [
            decode[case(b, n, 1, f"{heads}-1", 576, f"{p}_dv512_latent"), "triton"]
            for b, n, p in shapes
        ]
        (took,) = table(page, f"{heads} heads, us")
        times = [1000 * float(row["graph_ms"]) for row in ours]
        assert [float(x) for x in took[1:]] == pytest.approx(times, rel=0.005)
        assert tbs[1:] == [f"{float(row['read_tbs']):.2f}" for row in ours]
