"""Odd values as source text, so that what a call was given can be printed and made again.

`NAMESPACE` is where the text means something; `made` makes a value of it. ODD are values that some
argument may be given instead of its own; ODD_TENSORS what may become of the tensor `x`. Numbers
are small or absurd: as a length, 2**31 would be meant, and take gigabytes.
"""

from __future__ import annotations

import datetime
import enum
import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch
import torch.distributed as dist

import ring_attn_bench
from ring_attn_bench import flash_attn, registry
from tests.hostile import packs


class Plain(torch.Tensor):
    """A subclass that adds nothing."""


class Word(str):
    """A str, and not one of Python's own type."""


class Whole(enum.IntEnum):
    ONE = 1


class Stubborn:
    """Raises whatever it is asked."""

    def _raise(self, *arguments, **named):
        raise ArithmeticError("planted: it does not want to")

    __repr__ = __str__ = __len__ = __iter__ = __index__ = __float__ = __bool__ = _raise
    __eq__ = __getitem__ = __hash__ = __int__ = _raise


class Eager:
    """Has every attribute, and each is itself."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def randn(seed, *shape, dtype=torch.float32):
    """The same numbers every time, in any dtype, on the default device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(torch.get_default_device(), dtype)


def leaf(x):
    return x.detach().requires_grad_()


def inference(x):
    with torch.inference_mode():
        return x.clone()


def fake(x):
    """As `torch.compile` and `torch.export` trace with: it has a shape and no numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(x.detach())


def starts(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype)


NAMESPACE: Mapping[str, object] = {
    **{name: getattr(ring_attn_bench, name) for name in ring_attn_bench.__all__},
    **{name: getattr(flash_attn, name) for name in flash_attn.__all__},
    **{name: value for name, value in vars(registry).items() if callable(value)},
    "torch": torch, "np": np, "math": math, "dist": dist, "datetime": datetime,
    "Decimal": Decimal, "Fraction": Fraction, "Plain": Plain, "Word": Word, "Whole": Whole,
    "Stubborn": Stubborn, "Eager": Eager, "randn": randn, "leaf": leaf, "inference": inference,
    "fake": fake, "starts": starts, **packs.NAMES,
}  # fmt: skip


def made(text: str) -> object:
    """The value of a text."""
    return eval(text, dict(NAMESPACE))


ODD = (
    "None", "True", "False", "0", "1", "-1", "2", "3", "7", "10**12", "10**30", "-10**30",
    "2**63", "2**63 - 1", "10**5000", "-10**5000", "0.0", "-0.0", "0.5", "1.0", "-2.5", "1e30",
    "1e-30", "5e-324", "float('nan')", "float('inf')", "float('-inf')", "''", "'1'", "'0.5'",
    "'no'", "'\\ud800'", "'x' * 10**5", "b'1'", "[]", "()", "[1]", "(1,)", "(1, 2)", "[1, 2]",
    "(1, 2, 3)", "('1', '2')", "(1.0, 2.0)", "(None, None)", "(True, 1)", "(10**30, 10**30)",
    "(-10**30, 0)", "{}", "{1, 2}", "{1: 2, 3: 4}", "object()", "Stubborn()", "Eager()",
    "(Stubborn(), 1)", "[Stubborn()]", "int", "len", "lambda: 0", "...", "NotImplemented",
    "slice(0, 1)", "range(2)", "iter((1, 2))", "(x for x in (1, 2))", "map(int, '12')", "1j",
    "np.complex64(1)", "np.int64(1)", "np.uint8(255)", "np.float16(0.5)", "np.float32(0.5)",
    "np.float64('nan')", "np.longdouble(2)", "np.bool_(True)", "np.str_('zigzag')",
    "np.datetime64('2020-01-01')", "np.array(1)", "np.array(0.5)", "np.array(True)",
    "np.array([1, 2])", "np.array([1.5, 2.5])", "np.array([True, False])", "np.array(['a', 'b'])",
    "np.array([None, 1], dtype=object)", "np.zeros((2, 2), int)", "np.ma.masked",
    "torch.tensor(1)", "torch.tensor(0.5)", "torch.tensor(True)", "torch.tensor(1j)",
    "torch.tensor([1])", "torch.tensor([1, 2])", "torch.tensor([1.0, 2.0])", "torch.ones(2, 2)",
    "torch.ones(0)", "torch.tensor(1, device='meta')", "torch.ones(2, device='meta').long()",
    "torch.ones(2).to_sparse()", "torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])",
    "torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)", "leaf(torch.tensor(0.5))",
    "fake(torch.tensor(1))", "fake(torch.tensor([1, 2]))", "inference(torch.tensor(1))",
    "torch.tensor(1, dtype=torch.float8_e5m2)", "torch.Size([1, 2])", "torch.float32",
    "torch.device('cpu')", "torch.nn.Parameter(torch.ones(2))", "Plain()", "Fraction(1, 2)",
    "Fraction(10**400)", "Decimal('0.5')", "Word('zigzag')", "Word('reference')", "Whole.ONE",
    "datetime.timedelta(1)", "datetime.timedelta.max", "datetime.timedelta(0)", "RingOptions()",
    "RingOptions", "dist.group.WORLD", "dist.GroupMember.NON_GROUP_MEMBER",
)  # fmt: skip

ODD_TENSORS = (
    "x.to('meta')", "x.to_sparse()", "x.to_mkldnn()", "x.detach().float().numpy()", "x.tolist()",
    "torch.nested.nested_tensor([x[0], x[0]])",
    "torch.nested.nested_tensor([x[0], x[0]], layout=torch.jagged)",
    "torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8)", "x.to(torch.complex64)",
    "x.long()", "x.int()", "x.bool()", "x.to(torch.float8_e5m2)", "x.double()", "x.half()",
    "x.float()", "x.bfloat16()", "x.as_subclass(Plain)", "leaf(x).as_subclass(Plain)",
    "torch.nn.Parameter(x)", "torch.nn.Buffer(x)", "leaf(x)", "leaf(x) * 1", "inference(x)",
    "fake(x)", "torch._neg_view(x)", "torch.ones_like(x)", "x.flip(0)", "x.transpose(0, 1)",
    "x.mT.contiguous().mT", "x.transpose(0, 1).contiguous().transpose(0, 1)", "x[0]", "x[None]",
    "x[..., None]", "x[:0]", "x[:, :0]", "x[..., :0]", "x[..., :0, :]", "x[:1]", "x[:, :1]",
    "x[..., :1]", "x[..., :1, :]", "x[:, 1:]", "x[:, ::2]", "x[..., ::2]", "x[..., :4]",
    "x[:1].expand_as(x)", "x[..., :1].expand_as(x)", "x.repeat_interleave(2, 0)",
    "x.repeat_interleave(2, 1)", "x.repeat_interleave(2, -2)", "torch.cat([x] * 40, -1)",
    "x[:1, :1].expand(1, 10**12, *x.shape[2:])", "x[:1].expand(2**40, *x.shape[1:])",
    "torch.zeros(())", "torch.zeros(0)", "torch.zeros(1, 1, 1, 1)", "[x]", "(x, x)", "{'x': x}",
    "iter(x)", "torch.masked.masked_tensor(x.float(), x.float() > 0)", "x.to_sparse(1)",
    "torch.view_as_complex(torch.stack([x.float(), x.float()], -1)).conj()", "x.detach().to('cpu')",
)  # fmt: skip
"""Of a tensor x of any floating dtype."""
