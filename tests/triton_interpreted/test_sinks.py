"""Sinks of every size, by the Triton kernels that start from them."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from tests.unit.calls.test_sinks import INF, check

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]


@pytest.mark.parametrize("value", [3e38, 3.4e38, 300.0, -3e38, 1e300, INF, -INF])
@pytest.mark.parametrize("documents", [False, True], ids=["call", "documents"])
def test_a_sink_of_any_size_is_right(value, documents):
    check(value, documents=documents, backend="triton", dtype=torch.float32)
