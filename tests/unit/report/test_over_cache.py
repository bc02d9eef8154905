"""Rows over a cache have a table and a picture of their own, and no ring's table has them."""

import pytest

from ring_attn_bench.records.cache_shape import CacheShape
from ring_attn_bench.records.ceilings import Ceilings
from ring_attn_bench.records.record import Contestant, Samples, Speed
from ring_attn_bench.records.record import append as write
from ring_attn_bench.report import tables
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import SharedShape
from ring_attn_bench.report.over_cache import apart, families
from ring_attn_bench.report.page.build import page
from ring_attn_bench.report.plots import Gallery
from ring_attn_bench.report.plots.reading import draw_reading
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.report.rows import row, rows
from ring_attn_bench.report.write import summary, write_report

CEILINGS = Ceilings(
    dtype="bfloat16", matmul_tflops=(700.0,), copy_gbs=(4200.0,), read_gbs=(4400.0,)
)
PEER = Contestant(backend="peer:flash_attn[flash_attn_2]", partition="contiguous", options=None)


@pytest.fixture(scope="module")
def cached(make_record, make_case, make_contestant):
    """A record of a contestant, and of a cache of so many MiB that takes so many milliseconds."""

    def made(graph=0.2, call=0.25, mib=512, contestant=None, status="ok", **changes):
        case = make_case(
            world_size=1, cache=CacheShape(**{"queries": 1, **changes.pop("cache", {})}), **changes
        )
        who = contestant or make_contestant(partition="contiguous")
        if status != "ok":
            return make_record(case=case, contestant=who, status=status)
        times = [[call + 1e-3 * turn] for turn in range(10)]
        samples = Samples(ring=times, graph=[[graph]] * 10 if graph else [], stop="max_samples")
        speed = Speed(samples=samples, useful_flops=10**9, devices=1, cache_bytes=mib * 2**20)
        return make_record(case=case, contestant=who, speed=speed, ceilings=CEILINGS)

    return made


@pytest.fixture(scope="module")
def some(cached):
    return (
        cached(),
        cached(graph=0.25, contestant=PEER),
        cached(cache={"page": 16}),
        cached(contestant=PEER, cache={"page": 16}, status="unsupported"),
        cached(batch=8, mib=4096, graph=1.1, call=1.2, softcap=30.0),
        cached(cache={"queries": 8, "head_dim_v": 64}, graph=0.0),
        cached(cache={"queries": 8, "head_dim_v": 64, "latent": True}, graph=0.0),
    )


def test_what_is_read_is_by_the_graph_where_there_is_one_and_beside_the_ceiling(cached):
    by_graph, by_call = row(cached()), row(cached(graph=0.0))

    assert by_graph.graph_ms == 0.2
    assert by_graph.cache_mib == 512
    assert by_graph.read_tbs == pytest.approx(512 * 2**20 / 0.2e-3 / 1e12)
    assert by_graph.percent_of_read == pytest.approx(100 * by_graph.read_tbs / 4.4)
    assert by_call.graph_ms is None
    assert by_call.read_tbs == pytest.approx(512 * 2**20 / by_call.latency_ms / 1e9)
    assert by_graph.tokens_per_s == pytest.approx(1 / (by_graph.latency_ms / 1e3))


def test_a_row_knows_its_cache_from_its_cells_too(some):
    for record in some:
        made = row(record)
        text = {name: "" if cell is None else str(cell) for name, cell in made.cells().items()}

        assert made.cache == record.case.cache
        assert ReportRow.of_cells(text).cache == record.case.cache


def test_a_family_has_all_pages_and_batches_and_windows_of_its_heads(some):
    caches = rows(some)

    assert [len(alike) for alike in families(caches).values()] == [5, 2]
    first, second = (family.heading(alike) for family, alike in families(caches).items())
    assert first == "1 x NVIDIA H200, over a cache: heads 32:8 of 128, bfloat16, causal"
    assert second == first.replace("bfloat16", "bfloat16, 64 of v")
    assert len({family.slug for family in families(caches)}) == 2


def test_a_table_has_the_fastest_of_each_case_first_and_says_how_far_others_are_behind(some):
    (table,) = tables.cached(next(iter(families(rows(some)).values())))

    assert table.headers[:6] == (
        "batch", "tokens", "queries", "cache", "backend", "of the fastest",
    )  # fmt: skip
    assert [line[3:6] for line in table.rows] == [
        ("rows", "triton", "1.00x"),
        ("", "peer:flash_attn[flash_attn_2]", "1.25x"),
        ("page 16", "triton", "1.00x"),
        ("", "peer:flash_attn[flash_attn_2]", "unsupported [1]"),
        ("softcap 30", "triton", "1.00x"),
    ]
    at = table.headers.index("TB/s")
    assert [line[at] for line in table.rows] == ["2.68", "2.15", "2.68", "", "3.90"]
    assert table.rows[0][table.headers.index("% of reading")].startswith("61")


def test_a_row_of_latent_keys_says_so_and_is_not_taken_for_one_of_the_same_widths(some):
    _, alike = families(rows(some)).values()
    (table,) = tables.cached(alike)

    assert [line[3] for line in table.rows] == ["rows", "latent"]
    assert [row.latent for row in alike] == [False, True]
    assert len({SharedShape.of(row) for row in alike}) == 2
    assert SharedShape.of(alike[1]).title.endswith("head dim of v 64, latent")


def test_a_page_of_both_keeps_them_apart(some, sweep_records, tmp_path):
    both = (*sweep_records, *some)
    made = page(both, Gallery((), ()), tmp_path)
    alone = page(sweep_records, Gallery((), ()), tmp_path)
    by_name, rings = ({x.name: x for x in one.sections} for one in (made, alone))

    assert list(by_name) == [*list(rings)[: list(rings).index("memory") + 1], "decode",
                             *list(rings)[list(rings).index("memory") + 1 :]]  # fmt: skip
    for name in ("decisions", "behind", "matrix", "scaling", "time", "accuracy"):
        assert by_name[name] == rings[name]
    assert made.title == alone.title.replace("4 x NVIDIA H200", made.title.partition(" on ")[2])
    assert " Over a cache: Fastest and right, of " in made.verdict
    assert len(apart(rows(both))[1]) == len(some)


def test_a_page_of_caches_alone_is_called_so_and_has_no_section_of_rings(some, tmp_path):
    made = page(some, Gallery((), ()), tmp_path)

    assert made.title.startswith("Attention over a cache on 1 x NVIDIA H200")
    names = [section.name for section in made.sections]
    assert names == ["decode", "missing", "how", "provenance", "again"]


def test_a_report_has_a_picture_of_each_family_and_no_other(some, tmp_path):
    for record in some:
        write(tmp_path / "records.jsonl", record)

    written = write_report(tmp_path / "records.jsonl", tmp_path)

    drawn = sorted(path.name for path in written if path.suffix == ".png")
    assert drawn == [
        "reading_w1_h32-8_d128_bfloat16_causal.png",
        "reading_w1_h32-8_d128_bfloat16_dv64_causal.png",
    ]
    text = (tmp_path / "report.md").read_text()
    assert all(f"plots/{name}" in text for name in drawn)
    assert "No throughput plot" not in text


def test_a_terminal_has_the_same_table_however_narrow(some):
    for width in (60, 100, 200):
        shown = summary(some, width)
        assert "over a cache: heads 32:8 of 128" in " ".join(shown.split())
        assert max(map(len, shown.splitlines())) <= width


def test_the_verdict_has_who_is_fastest_by_calls_and_in_a_graph(cached, tmp_path):
    """The order of the section's table is that of graphs: here it is the other one."""
    behind = cached(graph=0.2, call=0.3), cached(graph=0.25, call=0.26, contestant=PEER)

    said = page(behind, Gallery((), ()), tmp_path).verdict
    by_calls, _, inside = said.partition("Times are of calls in a loop, the host's work included.")

    assert by_calls.startswith(f"Fastest and right, of 1 shape: {PEER.backend} in 1 (1 beyond")
    assert inside == " Without it, in a CUDA graph, of 1 shape: triton in 1 (1 beyond noise)."


def test_without_graphs_or_without_a_rival_in_one_a_verdict_says_nothing_of_them(cached, tmp_path):
    none = cached(graph=0.0), cached(graph=0.0, contestant=PEER)
    for records in (none, (cached(), cached(graph=0.0, contestant=PEER))):
        assert "graph" not in page(records, Gallery((), ()), tmp_path).verdict


def test_a_table_has_all_speeds_by_the_time_that_orders_it(cached):
    (table,) = tables.cached(rows([cached(graph=0.2, call=0.3), cached(contestant=PEER)]))

    at = table.headers.index("TFLOP/s")
    assert [line[at] for line in table.rows] == ["5.00", "5.00"]  # 1e9 in 0.2 ms


def test_batch_sizes_that_read_as_much_have_a_panel_each_from_small_to_large(cached):
    sizes = ((8, 512), (1, 512), (8, 4096), (1, 64))
    found = rows([cached(batch=batch, mib=mib, seqlen_total=512 * mib) for batch, mib in sizes])
    figure = draw_reading(found, Style.of(found), "some")

    assert [axes.get_title() for axes in figure.axes] == [
        "batch 1, 1 query, rows",
        "batch 8, 1 query, rows",
    ]
    assert [list(axes.lines[0].get_xdata()) for axes in figure.axes] == [[64, 512], [512, 4096]]
    alone = draw_reading([row for row in found if row.batch == 8], Style.of(found), "some")
    assert [axes.get_title() for axes in alone.axes] == ["1 query, rows"]
