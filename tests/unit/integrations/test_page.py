"""What docs/integrations.md shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "integrations.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.filterwarnings("ignore")  # what transformers and torch.compile warn of
@pytest.mark.parametrize("block", BLOCKS, ids=["compiled", "transformers"])
def test_a_block_of_the_page_runs(block):
    if "transformers" in block:
        pytest.importorskip("transformers", reason="transformers is not installed")
    exec(block, {})
