"""Packed documents with starts that may not be right, and what a call of them is to give."""

from itertools import pairwise

import torch

from tests.dense_truth import truth

NAMES = ("out", "lse", "dq", "dk", "dv")


def sound(starts, tokens, longest):
    """The documents as ranges of queries and of keys; each argument is a pair, queries and keys."""
    sides = []
    for side, all_tokens in zip(starts, tokens, strict=True):
        most, rising = 0, []
        for start in side:
            most = max(most, min(max(start, 0), all_tokens))
            rising.append(most)
        sides.append(list(pairwise(rising)))
    found = []
    for (row, row_end), (key, key_end) in zip(*sides, strict=True):
        if row_end - row > longest[0] or key_end - key > longest[1]:
            break
        found.append((slice(row, row_end), slice(key, key_end)))
    return found


def poisoned(tensors, documents):
    """q, k, v and dout with NaN in all tokens that are in no document."""
    found = []
    for x, side in zip(tensors, (0, 1, 1, 0), strict=True):
        outside = torch.ones(x.shape[0], dtype=torch.bool)
        for document in documents:
            outside[document[side]] = False
        found.append(x.clone())
        found[-1][outside.to(x.device)] = float("nan")
    return found


def expected(q, k, v, dout, documents, **options):
    """By name, in float64 on a CPU: each document by itself, nothing in all other tokens.

    With a sink, dsink too. lse (H, T).
    """
    q, k, v, dout = (x.detach().double().cpu() for x in (q, k, v, dout))
    found = {
        "out": torch.zeros_like(dout),
        "lse": q.new_full((q.shape[1], q.shape[0]), float("-inf")),
        "dq": torch.zeros_like(q),
        "dk": torch.zeros_like(k),
        "dv": torch.zeros_like(v),
    }
    sink = options.pop("sink", None)
    if sink is not None:
        sink = sink.detach().double().cpu().requires_grad_()
        found["dsink"] = torch.zeros_like(sink)
    for rows, keys in documents:
        leaves = [
            x[None, at].clone().requires_grad_() for x, at in ((q, rows), (k, keys), (v, keys))
        ]
        out, lse = truth(*leaves, sink=sink, **options)
        wanted = leaves if sink is None else [*leaves, sink]
        gradients = torch.autograd.grad(out, wanted, dout[None, rows], allow_unused=True)
        found["out"][rows], found["lse"][:, rows] = out[0].detach(), lse[0].detach()
        for name, x, at in zip(("dq", "dk", "dv"), gradients, (rows, keys, keys), strict=False):
            if x is not None:
                found[name][at] = x[0]
        if sink is not None and gradients[3] is not None:
            found["dsink"] += gradients[3]
    return found
