"""The kernel that fills in what is outside of documents, compiled without a GPU."""

import pytest
import torch

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("nothing compiles where Triton interprets", allow_module_level=True)

from ring_attn_bench.one_device import outside_triton  # noqa: E402 - needs Triton
from ring_attn_bench.one_device.outside import Results  # noqa: E402
from tests.unit.backends.test_triton_compile import compiled, source  # noqa: E402

TOKENS, HEADS, KEY_HEADS, DIM = 300, 16, 4, 128


def tensor(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


QUERIES, KEYS = tensor(TOKENS, HEADS, DIM), tensor(TOKENS, KEY_HEADS, DIM)
LSE = tensor(HEADS, TOKENS, dtype=torch.float32)
FILLED = {
    "starts": Results(),
    "forward": Results(QUERIES, LSE),
    "backward": Results(QUERIES, None, KEYS, KEYS),
}


@pytest.mark.parametrize("documents", [5, 5000])
@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("filled", FILLED)
def test_it_compiles_and_spills_nothing(filled, sound, documents, tmp_path):
    starts = (tensor(documents + 1, dtype=torch.int32),) * 2
    sides = (TOKENS, TOKENS), (TOKENS, TOKENS)
    given = outside_triton.arguments(starts, None if sound else starts, *sides, FILLED[filled])
    assert list(given) == outside_triton.settle_and_fill.arg_names  # as it is made again
    code = source(outside_triton.settle_and_fill, given)
    found = compiled(code, 90, tmp_path, num_warps=4)

    assert found.spilled == 0
    assert found.registers <= 64  # so that all programs are there at once
