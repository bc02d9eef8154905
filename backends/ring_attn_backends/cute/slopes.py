"""The gradient of a thread's part of a tile of scores, register by register.

A weight p is exp2(score - lse), of the lse over all keys, so that there is nothing to go on from.
With dp, the product of dout and v, the gradient of a score is p (dp - delta); a softcap is one more
factor, the slope of cap * tanh (Dao 2023, FlashAttention-2, algorithm 2). `on` is the arithmetic,
as in `online`.
"""
# ruff: noqa: ANN001, ANN201 - what a register holds has no type of Python's

from ring_attn_backends.cute.online import LOG2E


def start(lse, on):
    """What is added to a row's scores, in base 2: -lse; without keys -inf, and weights are 0."""
    return on.where(lse == on.MINUS_INF, on.MINUS_INF, lse * -LOG2E)


def weights(scores, starts, scale, on):
    """Makes weights of products. starts: of each number's row, or None where products have them."""
    for i in range(len(scores)):
        score = scores[i] * scale
        scores[i] = on.exp2(score if starts is None else score + starts[i])


def capped_weights(scores, starts, scale, cap, on):
    """Makes numbers of products that give weights and slopes; returns both; cap: in base 2.

    tanh as in `online.capped`, of which 1 - tanh^2 is the slope.
    """
    slopes = []
    for i in range(len(scores)):
        power = on.exp2(scores[i] * scale * (2 * LOG2E))
        tanh = 1.0 - 2.0 * on.reciprocal(power + 1.0)
        scores[i] = on.exp2(cap * tanh + starts[i])
        slopes.append(1.0 - tanh * tanh)
    return slopes
