"""Every Python block of README and docs runs as it stands, in a folder that has nothing else."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import limit

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    # translations have the same code, by `tests/test_translations.py`
    *sorted(x for x in (ROOT / "docs").glob("*.md") if not x.name.endswith(".zh-CN.md")),
]
ON_RANKS = "init_process_group"


def snippets():
    """By page and line."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text[: block.start()].count("\n") + 1
            yield pytest.param(block[1], id=f"{page.name}:{line}")


ALL = list(snippets())


@pytest.fixture
def file(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("flash_attn", "flash_attn.flash_attn_interface"):  # a page puts ours there
        there = sys.modules.get(name)
        monkeypatch.setitem(sys.modules, name, there)  # and afterwards it is as it was
        if there is None:
            del sys.modules[name]
    path = tmp_path / "snippet.py"
    path.write_text(request.param, encoding="utf-8")
    return path


PRINTED = {
    "ten.py": "",
    "ring.py": "[0, 1, 2] (1, 512, 8, 64) (1, 1024, 8, 64)\n",
    "options.py": "p2p (1, 64, 4, 32)\n",
    "model.py": "(1, 16, 64)\n",
    "moved.py": "(1, 32, 4, 32) (1, 4, 32)\n",
}


@pytest.mark.parametrize("file", [x for x in ALL if ON_RANKS not in x.values[0]], indirect=True)
def test_a_snippet_runs(file, capsys):
    runpy.run_path(str(file), run_name="snippet")


@pytest.mark.parametrize("file", [x for x in ALL if ON_RANKS in x.values[0]], indirect=True)
def test_a_program_for_ranks_runs_under_torchrun_as_its_first_line_says(file):
    words = re.match(r"# (\S+), started by: torchrun (.*)\n", file.read_text())
    name, options = words[1], words[2].split()
    assert options.pop() == name
    file.rename(name)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *options, name]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'backends'}", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip

    done = subprocess.run(
        torchrun, capture_output=True, text=True, timeout=limit(120), env=environment, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == PRINTED[name]


def test_no_page_is_without_what_is_looked_for():
    found = {x.id.partition(":")[0] for x in ALL}
    assert {"README.md", "api.md", "coverage.md", "adding-a-transport.md"} <= found
