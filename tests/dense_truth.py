"""Attention written out as matrices, in the inputs' precision, for autograd to differentiate."""

import torch


def truth(q, k, v, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, sink=None):
    """out (B, M, H, E) and lse (B, H, M), the last query at the last key."""
    group = q.shape[2] // k.shape[2]
    s = torch.einsum("bihd,bjhd->bhij", q, k.repeat_interleave(group, 2)) * q.shape[3] ** -0.5
    if softcap:
        s = softcap * torch.tanh(s / softcap)
    rows, keys = s.shape[2:]
    distance = torch.arange(rows)[:, None] + keys - rows - torch.arange(keys)
    if alibi_slopes is not None:
        s = s - alibi_slopes.double().reshape(-1, s.shape[1], 1, 1) * distance.abs()
    left, right = window_size
    hidden = (distance < 0) & causal
    hidden |= (distance > left) & (left >= 0)
    hidden |= (distance < -right) & (right >= 0)
    s = s.masked_fill(hidden, float("-inf"))
    if sink is not None:
        s = torch.cat([s, sink[None, :, None, None].expand(*s.shape[:3], 1)], -1)
    lse = s.logsumexp(-1) if s.shape[-1] else s.new_full(s.shape[:3], float("-inf"))
    p = torch.exp(s - lse.nan_to_num(neginf=0.0)[..., None])[..., :keys]
    return torch.einsum("bhij,bjhd->bihd", p, v.repeat_interleave(group, 2)), lse
