"""Stand-ins for torch's CUDA operators of attention, on a CPU: flash-attn 2's and cuDNN's."""

from __future__ import annotations

import torch

from tests.unit.backends.fake_kernels.attention import Scores, by_pointer, check_addresses, summed
from tests.unit.backends.fake_kernels.flash_attn_2 import FlashAttn2


class FlashOperators(FlashAttn2):
    """_flash_attention_forward and _backward, as torch 2.11 has them."""

    def _flash_attention_forward(
        self, query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal,
        return_debug_mask, *, scale=None, window_size_left=None, window_size_right=None,
        seqused_k=None, alibi_slopes=None,
    ):  # fmt: skip
        options = self._options(
            dropout_p, scale, is_causal, window_size_left, window_size_right, return_softmax=False
        )
        if cum_seq_q is None:
            assert (max_q, max_k) == (query.shape[1], key.shape[1])
            found = self._flash_attn_forward(query, key, value, **options)
        else:
            found = self._flash_attn_varlen_forward(
                query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, **options
            )
        return found[0], found[1], found[3].view(torch.uint64), torch.empty(()), torch.empty(0)

    def _flash_attention_backward(
        self, grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k,
        dropout_p, is_causal, rng_state, unused, *, scale=None, window_size_left=None,
        window_size_right=None,
    ):  # fmt: skip
        if dropout_p:
            # philox_seed.data_ptr<uint64_t>() checks the dtype
            assert rng_state.dtype is torch.uint64, "expected scalar type UInt64"
            rng_state = rng_state.view(torch.int64)
        options = self._options(
            dropout_p, scale, is_causal, window_size_left, window_size_right,
            deterministic=torch.are_deterministic_algorithms_enabled(), rng_state=rng_state,
        )  # fmt: skip
        gradients = [torch.empty_like(x) for x in (query, key, value)]
        tensors = (grad_out.contiguous(), query, key, value, out.contiguous(), logsumexp)
        if cum_seq_q is None:
            self._flash_attn_backward(*tensors, *gradients, **options)
        else:
            lengths = (cum_seq_q, cum_seq_k, max_q, max_k)
            self._flash_attn_varlen_backward(*tensors, *gradients, *lengths, **options)
        return tuple(gradients)

    def _options(self, dropout_p, scale, causal, left, right, **more):
        return {
            "dropout_p": dropout_p, "softmax_scale": scale, "causal": causal,
            "window_size_left": -1 if left is None else left,
            "window_size_right": -1 if right is None else right,
            "softcap": 0.0, "alibi_slopes": None, **more,
        }  # fmt: skip


class CudnnOperators:
    """Heads first, causal from the top left, and nothing over a single key.

    lse_dims: 3 or 4, which torch changed its mind about.
    """

    def __init__(self, lse_dims=4):
        self.lse_dims, self.keys = lse_dims, []

    def _scaled_dot_product_cudnn_attention(
        self, query, key, value, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False,
        return_debug_mask=False, *, scale=None,
    ):  # fmt: skip
        q, k, v = self._taken(query, key, value)
        out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype)
        lse = torch.empty(q.shape[0], q.shape[2], q.shape[1])
        for entry in range(q.shape[0]):
            found = self._scores(q[entry], k[entry], is_causal, scale).forward(v[entry], 0.0)
            out[entry], lse[entry] = found[0].to(q.dtype), found[1]
        lse = lse[..., None] if self.lse_dims == 4 else lse
        return out.transpose(1, 2), lse, None, None, q.shape[1], k.shape[1], None, None, None

    def _scaled_dot_product_cudnn_attention_backward(
        self, grad_out, query, key, value, out, logsumexp, philox_seed, philox_offset, attn_bias,
        cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, *, scale=None,
    ):  # fmt: skip
        q, k, v, dout, o = self._taken(query, key, value, grad_out, out)
        assert (max_q, max_k, dropout_p) == (q.shape[1], k.shape[1], 0.0)
        # graphs are kept by the strides of q, k and v: these must always be the same
        assert dout.is_contiguous()
        assert o.is_contiguous()
        assert logsumexp.dim() == self.lse_dims
        assert logsumexp.is_contiguous()
        lse = by_pointer(logsumexp, (q.shape[0], q.shape[2], q.shape[1]))
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        for entry in range(q.shape[0]):
            scores = self._scores(q[entry], k[entry], is_causal, scale)
            shares = scores.backward(dout[entry], v[entry], o[entry], lse[entry])
            dq[entry] = shares[0].to(q.dtype)
            dk[entry], dv[entry] = (summed(x, k.shape[2]).to(q.dtype) for x in shares[1:])
        return tuple(x.transpose(1, 2) for x in (dq, dk, dv))

    def _taken(self, *tensors):
        tensors = [x.transpose(1, 2) for x in tensors]
        check_addresses(*tensors)
        assert all(x.shape[-1] % 8 == 0 and x.shape[-1] <= 128 for x in tensors), "head dim"
        self.keys.append(tensors[1].shape[1])
        if tensors[1].shape[1] == 1:
            raise RuntimeError("cuDNN Frontend error: no valid engine configs")
        return tensors

    def _scores(self, q, k, causal, scale):
        seen = torch.ones(q.shape[0], k.shape[0], dtype=torch.bool)
        if causal:
            seen = seen.tril()
        return Scores(q, k, seen, scale)
