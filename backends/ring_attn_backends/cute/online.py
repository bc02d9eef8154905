"""The online softmax of a thread's part of 64 rows x a tile of keys, register by register.

A thread holds two rows (`programs.row_of`) of a tile of scores in its registers, `scores[i]`; three
other threads, its quad, hold the rest of these rows. A row's state is `peak`, its largest score in
base 2, and `total`, this thread's share of the sum of its weights relative to exp2(peak). Only at
the end do the quad's totals meet (Milakov & Gimelshein 2018; Dao 2023, FlashAttention-2).

The loops here run when the kernel is compiled: what is left are straight lines of instructions.
`on` is the arithmetic: `lanes` on a GPU, numpy in tests, with 128 threads in each number.
"""
# ruff: noqa: ANN001, ANN202, ANN201 - what a register holds has no type of Python's

from ring_attn_backends.cute.programs import column_of

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453
CHAINS = 4
"""Into how many chains a row's maximum and sum are split: an instruction waits four or more cycles
for the one before it."""


def masked(scores, lane, rows, first_key, keys, low, high, on, hidden=float("-inf")):
    """Puts `hidden` where the thread's rows may not see a key of the tile from `first_key` on."""
    for half, row in enumerate(rows):
        # in columns of the tile as lane 0 counts them: then they are compared with constants
        origin = first_key + column_of(lane, 0)
        first = row - high - origin
        last = on.least(row - low, keys - 1) - origin
        for i in _of(half, scores):
            column = column_of(0, i)
            scores[i] = on.where((column >= first) & (column <= last), scores[i], hidden)


def capped(scores, scale, cap, on):
    """Makes of products scores in base 2: cap * tanh(scale * product), cap times log2(e) given.

    tanh by exp2, which saturates at +-1 and hands NaN on; right to 1e-7 absolute.
    """
    for i in range(len(scores)):
        power = on.exp2(scores[i] * scale * (2 * LOG2E))
        scores[i] = cap - 2 * cap * on.reciprocal(power + 1.0)


def soften(scores, peak, total, scale, on):
    """Makes weights of scores; returns what older sums fade to, and the new peaks and totals.

    scale: what is left to multiply, so that it is one FMA with the peak's subtraction.
    """
    fades, peaks, totals = [], [], []
    for half in range(2):
        own = _of(half, scores)
        largest = on.quad(_folded([scores[i] for i in own], on.most), on.most) * scale
        new_peak = on.most(peak[half], largest)
        shift = finite(new_peak, on)
        for i in own:
            scores[i] = on.exp2(scores[i] * scale - shift)
        fade = on.exp2(peak[half] - shift)
        fades.append(fade)
        peaks.append(new_peak)
        totals.append(total[half] * fade + _folded([scores[i] for i in own], on.plus))
    return fades, peaks, totals


def carried(lse, lane, on):
    """Peak and this thread's total of a row that has an lse, and an out that is its acc, already.

    The quad's totals are 1; but 0 where no key was seen, and inf where lse is inf.
    """
    peak = lse * LOG2E
    return peak, on.where(lane % 4 == 0, on.exp2(peak - finite(peak, on)), 0.0)


def finished(peak, total, on):
    """What acc is to be multiplied by, and lse; a row without keys has 1 and -inf."""
    total = on.quad(total, on.plus)
    lse = (finite(peak, on) + on.log2(total)) * LN2
    return on.reciprocal(on.where(total == 0.0, 1.0, total)), lse


def finite(peak, on):
    """peak, but 0 where it is -inf (no key yet) or inf: so that no inf - inf is taken."""
    return on.where(on.is_infinite(peak), 0.0, peak)


def _of(half, scores):
    return [i for i in range(len(scores)) if i // 2 % 2 == half]


def _folded(values, combine):
    """All values combined, in `CHAINS` chains that are combined last."""
    chains = values[:CHAINS]
    for i, value in enumerate(values[CHAINS:]):
        chains[i % CHAINS] = combine(chains[i % CHAINS], value)
    while len(chains) > 1:
        chains = [combine(*chains[i : i + 2]) for i in range(0, len(chains), 2)]
    return chains[0]
