"""The probe where a kernel can lose its device, and the committed matrix found once more."""

from pathlib import Path

import pytest
import torch

from ring_attn_bench.probe.status_changes import changes
from ring_attn_bench.records.finding import read
from ring_attn_bench.records.status import Status
from tests.harness.conftest import Program

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(580)]

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path)


def test_an_illegal_access_costs_the_feature_that_ran_and_nothing_else(program):
    words = ["--backend=illegal_access", "--backend=log2_lse", "--backend=reference"]
    words += ["--feature=causal", "--feature=window_causal", "--feature=gqa", "--jobs=3"]

    done = program.run("probe", *words, "--out", str(program.out), seconds=500)

    assert done.returncode == 1, done.stderr
    found = {x.key: x for x in read(program.out)}
    assert len(found) == 18
    lost = found.pop(("illegal_access", "window_causal", "forward"))
    assert lost.verdict == "error"
    assert "illegal memory access" in lost.reason
    for (backend, _, direction), finding in found.items():
        spoilt = backend == "log2_lse" and direction == "forward"
        assert finding.verdict == ("wrong" if spoilt else "ok"), finding


def committed():
    """The newest committed matrix of this GPU, or None."""
    found = sorted(RESULTS.glob("*/coverage.csv"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((path for path in reversed(found) if read(path)[0].device == device), None)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_the_committed_matrix_is_found_once_more_and_what_was_wrong_is_not(program):
    path = committed()
    if path is None:
        pytest.skip("no coverage.csv of such a GPU is in results/")

    words = [f"--backend={name}" for name in dict.fromkeys(x.backend for x in read(path))]

    program.run("probe", *words, "--jobs=16", "--out", str(program.out), seconds=3500)

    before, after = read(path), read(program.out)
    wrong = {x.key for x in before if x.verdict is Status.WRONG}  # evidence, and mended since
    mended = [x for x in after if x.key in wrong]
    assert {x.key for x in mended} == wrong
    assert {x.verdict for x in mended} <= {Status.OK, Status.UNSUPPORTED}
    others = ([x for x in side if x.key not in wrong] for side in (before, after))
    assert [str(change) for change in changes(*others)] == []
