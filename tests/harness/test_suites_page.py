"""The page on suites: its examples are files, and its commands run on this machine, in seconds."""

import re
import shlex
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "suites.md").read_text(encoding="utf-8")
FILES = re.findall(r"```toml\n(# (\S+\.toml): (?:.*\n)*?)```", PAGE)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize(
    "words",
    [words for words in COMMANDS if "--as-ranks" not in words],
    ids=lambda words: " ".join(words[1:]),
)
def test_a_command_of_the_page_works_as_it_is_written(program, words):
    gpus = torch.cuda.device_count()
    if "--ranks" in words and 1 < gpus < int(words[words.index("--ranks") + 1]):
        pytest.skip(f"it takes 4 GPUs, and this machine has {gpus}")
    for text, name in FILES:
        (program.folder / name).write_text(text)

    done = program.run(*words[1:], seconds=120)

    assert words[0] == "ring-attn-bench"
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 failures in " in done.stdout
