"""The page in a browser, where there is one: nothing is wider than it, and nothing complains."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.records.gpus import GpuLook, GpuWatch
from ring_attn_bench.report import plots
from ring_attn_bench.report.page import html as as_html
from ring_attn_bench.report.page.build import page
from ring_attn_bench.report.rows import rows

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip
WIDTHS = (360, 1600)
PROBE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
  const tables = [...document.querySelectorAll(".table")];
  const wide = tables.filter((table) => table.scrollWidth > table.clientWidth + 1);
  const first = document.querySelector("#again table");
  const text = () => first.tBodies[0].rows[0].textContent;
  const before = text();
  first.querySelectorAll("th button")[2].click();
  const input = document.querySelector("#again input");
  input.value = "reference";
  input.dispatchEvent(new Event("input"));
  const shown = [...first.tBodies[0].rows].filter((row) => !row.hidden);
  parent.postMessage({
    width: document.documentElement.scrollWidth, sorted: before !== text(), shown: shown.length,
    all: first.tBodies[0].rows.length, wide: wide.map((table) => table.ariaLabel),
  }, "*");
});
</script>"""
FRAMES = """<body><pre></pre>{frames}<script>
const found = [];
addEventListener("message", (event) => {{
  found.push(event.data);
  document.querySelector("pre").textContent = JSON.stringify(found);
}});
</script>"""


@pytest.fixture(scope="module")
def watched(sweep_records):
    """The sweep with GPUs that were looked at, and all that can be said against a time."""
    names = ("hw_slowdown", "hw_thermal_slowdown", "sw_power_cap")
    look = GpuLook(sm_mhz=1200, memory_mhz=3201, watts=650, celsius=88, held_back=names, others=2)
    gpus = GpuWatch.of([[look, look]] * 6)
    kernels = (UsedKernel("gathered_forward_kernel_with_a_long_name", 255, 12, 98304, 8),)
    return [
        record.model_copy(update={"gpus": gpus, "kernels": kernels}) if record.speed else record
        for record in sweep_records
    ]


@pytest.fixture(scope="module")
def seen(watched, tmp_path_factory):
    """What the page says of itself at each width, and what the browser said."""
    folder = tmp_path_factory.mktemp("browser")
    gallery = plots.draw(rows(watched), folder / "plots")
    text = as_html.html(page(watched, gallery, folder))
    (folder / "page.html").write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    frames = "".join(
        f'<iframe src="page.html" style="border:0;width:{width}px;height:600px"></iframe>'
        for width in WIDTHS
    )
    (folder / "frames.html").write_text(FRAMES.format(frames=frames), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1700,900",
         "--virtual-time-budget=20000", "--dump-dom", (folder / "frames.html").as_uri()],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    written = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert written, done.stderr
    return json.loads(html.unescape(written[1])), said


def test_nothing_is_wider_than_a_telephone_or_a_screen(seen):
    assert sorted(found["width"] for found in seen[0]) == list(WIDTHS)


def test_no_column_of_a_table_is_beyond_the_edge_of_a_screen(seen):
    (on_a_screen,) = (found for found in seen[0] if found["width"] == max(WIDTHS))
    assert on_a_screen["wide"] == []


def test_the_browser_complains_of_nothing(seen):
    assert seen[1] == []


def test_tables_are_sorted_and_filtered(seen, sweep_records):
    for found in seen[0]:
        assert found["sorted"]
        assert found["all"] == len(sweep_records)
        assert 0 < found["shown"] < found["all"]
