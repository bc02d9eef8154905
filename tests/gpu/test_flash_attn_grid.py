"""On a GPU: the grid of flash-attn's own tests through the public calls, by the Triton kernels.

A test is what kernels are compiled for: a head dim and the features that are on. So no two tests
compile the same, and they can be spread over processes, in which compiling takes most of the time.
All 15,000 calls, on a machine with 16 cores and one GPU, in ten to fifteen minutes:

    asked="-m pytest -qp no:cacheprovider tests/gpu/test_flash_attn_grid.py --full"
    for d in 32 40 59 64 80 96 111 128 160 192 224 256; do
        python3 $asked -k "d$d-" >/tmp/d$d.log 2>&1 &
    done; wait; tail -qn 1 /tmp/d*.log

Without --full every head dim is asked with a quarter of the features, each of them on and off, in
one call of six.
"""

from dataclasses import asdict, dataclass
from itertools import product

import pytest

from tests.flash_attn_grid import HEAD_DIMS, questions, sampled, wrong

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # Triton compiles, in processes side by side
]


@dataclass(frozen=True)
class Features:
    """What is on."""

    softcap: bool = False
    alibi: bool = False
    dropout: bool = False

    def __str__(self) -> str:
        return "-".join(name for name, on in asdict(self).items() if on) or "plain"


ALL = [Features(*on) for on in product((False, True), repeat=3)]


def asked(head_dims, among, shown):
    """Every head dim and these features, marked `full` but for those that are always shown."""
    return [
        pytest.param(
            dim, features, id=f"d{dim}-{features}",
            marks=() if features in shown(index, dim) else pytest.mark.full,
        )
        for index, dim in enumerate(head_dims)
        for features in among
    ]  # fmt: skip


def opposite(index, dim):
    """Two sets of features of which each has what the other lacks; another pair each time."""
    pair = (index + index // 4) % 4  # so that head dims 64 and 128 are not the same
    return ALL[pair], ALL[7 - pair]


def some(index, dim):
    """Of the dims with Hopper kernels, and of the oddest."""
    return {64: (ALL[0], ALL[7]), 128: (ALL[5],), 111: (ALL[2],)}.get(dim, ())


@pytest.fixture
def share(request):
    """Of how many calls one is made."""
    return 1 if request.config.getoption("--full") else 6


@pytest.mark.parametrize(("dim", "features"), asked(HEAD_DIMS, ALL, opposite))
def test_every_kind_of_heads_length_and_mask_is_right(dim, features, share):
    every = questions(head_dim=dim, **asdict(features))
    assert wrong(sampled(every, share), "cuda", "triton") == []


@pytest.mark.parametrize(("dim", "features"), asked(HEAD_DIMS, ALL, some))
def test_documents_are_right_at_every_length_and_mask(dim, features, share):
    every = questions(head_dim=dim, packed=True, **asdict(features))
    assert wrong(sampled(every, 4 * share), "cuda", "triton") == []


@pytest.mark.parametrize(("dim", "features"), asked((59, 64, 128, 256), (ALL[0], ALL[7]), some))
def test_float16_is_right_too(dim, features, share):
    every = questions(head_dim=dim, dtype="float16", **asdict(features))
    assert wrong(sampled(every, 4 * share), "cuda", "triton") == []
