"""A backward that writes its gradients where it is told."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ring_attn_bench.calls import kernel
from ring_attn_bench.calls.attend import Call, Given
from ring_attn_bench.calls.delta import delta
from ring_attn_bench.calls.dense import check_dense
from ring_attn_bench.calls.layout import is_expanded, rows_in_a_row
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.validate import dtype_name
from ring_attn_bench.contract.backend import accumulating
from ring_attn_bench.contract.tensors import Rows, Sums
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.one_device.one_launch import OneLaunch
from ring_attn_bench.ring.packing import accumulator_dtype


class Written(NamedTuple):
    """What a backward is given besides q, k and v, in their dtypes, and where it writes.

    dout and out as q, but for v's head dim; lse (B, H, M), or (H, T) of documents, float32 (float64
    of float64 inputs). dq, dk and dv: any floating dtype and any strides, or None.
    """

    dout: Tensor
    out: Tensor
    lse: Tensor
    dq: Tensor | None
    dk: Tensor | None
    dv: Tensor | None

    def check(self, given: Given) -> None:
        """Raises InvalidArgument for what does not fit the q, k and v that were checked."""
        q, k, v = given[:3]
        rows, heads = q.shape[:-2], q.shape[-2]
        of_lse = (*rows[:-1], heads, rows[-1])
        for name, x in (("dout", self.dout), ("out", self.out)):
            _check_like(name, x, (*rows, heads, v.shape[-1]), q, q.dtype)
        _check_like("softmax_lse", self.lse, of_lse, q, accumulator_dtype(q.dtype))
        for name, to, like in (("dq", self.dq, q), ("dk", self.dk, k), ("dv", self.dv, v)):
            if to is not None:
                _check_like(name, to, tuple(like.shape), q, None)
                _check_writable(name, to)


def write_gradients(call: Call, given: Given, options: Options, written: Written) -> Tensor:
    """Writes dq, dk and dv of the call, and returns delta, laid out as lse is."""
    written.check(given)
    dout, out = rows_in_a_row(written.dout), rows_in_a_row(written.out)
    lse = written.lse.contiguous()
    sums = delta(dout, out, lse.dtype)
    rows = Rows(given.q, dout, out, lse, sums if call.needs_delta else None)
    is_folded = options.softmax_scale is not None and options.softmax_scale <= 0
    if not is_folded and _wrote_in_place(call, given, rows, written):
        return sums
    dq, dk, dv = call.backward(given, rows, None)
    dq = options.folded(dq) if is_folded else dq
    for to, gradient in ((written.dq, dq), (written.dk, dk), (written.dv, dv)):
        if to is not None:
            to.copy_(gradient)
    return sums


def _wrote_in_place(call: Call, given: Given, rows: Rows, written: Written) -> bool:
    """Whether it is one launch of a kernel that writes where it is told: that spares copies."""
    dq, dk, dv = written[3:]
    backend = accumulating(call.backend) if isinstance(call, OneLaunch) else None
    if backend is None or dq is None or dk is None or dv is None:
        return False
    if any(
        x.stride(-1) != 1 or x.dtype not in (rows.q.dtype, rows.lse.dtype) for x in (dq, dk, dv)
    ):
        return False
    assert isinstance(call, OneLaunch)
    kernel.backward_into(
        backend, rows, given.keys, Sums(dq, dk, dv), call.block, given.score(call.score),
        first=True, first_keys=True, deterministic=call.deterministic,
    )  # fmt: skip
    return True


def _check_like(
    name: str, x: Tensor, shape: tuple[int, ...], q: Tensor, dtype: torch.dtype | None
) -> None:
    """dtype: its own, or None where any floating one will do."""
    check_dense(name, x)
    if tuple(x.shape) != shape:
        raise InvalidArgument(f"{name} has shape {tuple(x.shape)}; it must have {shape}.")
    if x.device != q.device:
        raise InvalidArgument(f"{name} is on {x.device}, but q is on {q.device}.")
    if dtype is None and not x.dtype.is_floating_point:
        raise InvalidArgument(f"{name} is {dtype_name(x.dtype)}; it must be a floating dtype.")
    if dtype is not None and x.dtype is not dtype:
        raise InvalidArgument(
            f"{name} is {dtype_name(x.dtype)}; it must be {dtype_name(dtype)} here."
        )


def _check_writable(name: str, x: Tensor) -> None:
    """Before anything is written: torch refuses it half way, and a kernel not at all."""
    if is_expanded(x):
        raise InvalidArgument(
            f"{name} is expanded: several of its elements are one in memory, and no gradient can "
            f"be written into it; pass {name}.contiguous()."
        )
    if x.is_inference() and not torch.is_inference_mode_enabled():
        raise InvalidArgument(
            f"{name} was made in inference mode, and nothing can be written into it outside of it; "
            "make it outside, or call under torch.inference_mode()."
        )
