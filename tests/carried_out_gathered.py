"""Launches of `cute` over gathered keys carried out in float64, from what they are told alone."""

import math

import torch
from ring_attn_backends.cute.programs import nth, tile_and_head
from ring_attn_backends.shared.worklist import ENTRY, TILE

LOG2E = math.log2(math.e)
KEYS = ("own_k", "own_v", "landed_k", "landed_v")
TABLES = ("tiles", "entries", "words")
NAMES = {
    "gathered.forward": ("q", *KEYS, "out", "lse", *TABLES),
    **dict.fromkeys(
        ("gathered.backward_dkdv", "gathered.backward_dk", "gathered.backward_dv"),
        (
            "q", "dout", *KEYS, "lse", "delta",
            "own_dk", "own_dv", "landed_dk", "landed_dv", *TABLES,
        ),
    ),
    "gathered.backward_adding": (
        "q", "dout", *KEYS, "lse", "delta", "dq",
        "own_dk", "own_dv", "landed_dk", "landed_dv", *TABLES,
    ),
    "gathered.backward_dq": ("q", "dout", *KEYS, "lse", "delta", "dq", *TABLES),
}  # fmt: skip


def carried_out(call, folder=None):
    """Program by program; returns the order in which they take groups of heads, and pieces."""
    return Launch(call).run()


class Launch:
    """What a call says, and no more."""

    def __init__(self, call):
        names = NAMES[call.build.kernel]
        self.kernel, self.build = call.build.kernel, call.build
        self.tensors = dict(zip(names, call.tensors, strict=True))
        self.strides = dict(zip(names, call.strides, strict=True))
        self.factors = call.numbers.factors
        batch, rows, heads, key_heads, self.section, self.tiles, self.groups = call.numbers.sizes
        self.batch, self.rows, self.heads, self.key_heads = batch, rows, heads, key_heads
        self.table, self.entries = (self.tensors[x].flatten().tolist() for x in TABLES[:2])

    def part(self, name, entry, tokens, head):
        """Some tokens of a head, (first, count), where the tensor's address and strides say."""
        x, (of_batch, *rest) = self.tensors[name], self.strides[name]
        first, count = tokens
        if name in ("lse", "delta"):
            (of_head,), of_token, columns = rest, 1, ()
        else:
            is_of_v = name.endswith(("out", "v"))  # out, dout, v and dv
            config = self.build.config
            (of_token, of_head), columns = rest, (config.width_v if is_of_v else config.width,)
        if name in KEYS:
            assert entry == 0
            assert head < self.key_heads * self.batch
        elif not name.endswith(("dk", "dv")):
            assert first + count <= self.rows
        offset = x.storage_offset() + entry * of_batch + first * of_token + head * of_head
        return x.as_strided((count, *columns), (of_token, 1)[: 1 + len(columns)], offset)

    def run(self):
        of_keys = not self.kernel.endswith(("forward", "dq"))
        all_heads = self.batch * (self.key_heads if of_keys else self.heads)
        order = []
        for number in range(self.tiles * all_heads):
            tile, head = tile_and_head(number, self.tiles, all_heads, self.section)
            packed = head if of_keys else head // (self.heads // self.key_heads)
            group = packed // (self.key_heads * self.batch // self.groups)
            first, stop, begin, end, piece = self.table[tile * TILE : (tile + 1) * TILE]
            mine = first, min(stop - first, self.build.config.own)
            visits = [self._visit(i) for i in range(begin, end)]
            for each in [piece] if of_keys else [piece for _, piece, *_ in visits]:
                word = 1 + (each - 1) * self.groups + group
                assert each == 0 or self.tensors["words"][word] == 1
            if of_keys:
                self._keys(mine, piece, packed, visits)
            elif self.kernel == "gathered.forward":
                self._forward(mine, head, packed, visits)
            else:
                self._rows(mine, head, packed, visits)
            order.append((group, piece))
        return order

    def _visit(self, i):
        """Its tokens, piece and band, and which of its tokens are in tiles that are visited."""
        start, length, low, high, piece, *where = self.entries[i * ENTRY : (i + 1) * ENTRY]
        block, inside = self.build.config.block, torch.zeros(length, dtype=torch.bool)
        for j in range(where[2] + where[3]):
            at = nth(j, where) * block
            inside[at : at + block] = True
        return (start, length), piece, low, high, inside

    def _scores(self, q, k, visible):
        """In base 2, -inf where hidden, and the slope of the softcap."""
        products = q @ k.T * self.factors[0]
        slope = 1.0
        if self.build.capped:
            slope, products = 1 - products.tanh() ** 2, self.factors[1] * products.tanh()
        return products.masked_fill(~visible, -math.inf), slope

    def _of_rows(self, mine, packed, visits):
        """For each visit k, v and which pairs of rows and keys are visible."""
        for side, piece, low, high, inside in visits:
            area = "landed" if piece else "own"
            k, v = (self.part(f"{area}_{x}", 0, side, packed).double() for x in "kv")
            distance = torch.arange(sum(mine))[mine[0] :, None] - torch.arange(side[1])
            yield k, v, (low <= distance) & (distance <= high) & inside

    def _forward(self, mine, head, packed, visits):
        entry, head = divmod(head, self.heads)
        q = self.part("q", entry, mine, head).double()
        found = list(self._of_rows(mine, packed, visits))
        no_scores, no_values = q.new_zeros(mine[1], 0), q.new_zeros(0, self.build.config.width_v)
        scores = [self._scores(q, k, seen)[0] / LOG2E for k, _, seen in found]
        scores, values = (
            torch.cat([no_scores, *scores], 1),
            torch.cat([no_values, *(v for _, v, _ in found)]),
        )
        lse = torch.logsumexp(scores, 1)
        weights = torch.exp(scores - lse.masked_fill(lse == -math.inf, 0.0)[:, None])
        self.part("out", entry, mine, head).copy_(weights @ values)
        self.part("lse", entry, mine, head).copy_(lse)

    def _slopes(self, entry, rows, head, k, v, visible):
        """Weights of rows and keys, gradients of their scores, and q and dout of the rows."""
        q, dout = (self.part(x, entry, rows, head).double() for x in ("q", "dout"))
        lse, delta = (self.part(x, entry, rows, head).double() for x in ("lse", "delta"))
        scores, slope = self._scores(q, k, visible)
        lse = lse.masked_fill(lse == -math.inf, 0.0)
        p = torch.exp2(scores - lse[:, None] * LOG2E)
        return p, p * (dout @ v.T - delta[:, None]) * slope, q, dout

    def _rows(self, mine, head, packed, visits):
        entry, head = divmod(head, self.heads)
        dq = torch.zeros(mine[1], self.build.config.width, dtype=torch.float64)
        for k, v, seen in self._of_rows(mine, packed, visits):
            dq += self._slopes(entry, mine, head, k, v, seen)[1] @ k
        self.part("dq", entry, mine, head).copy_(dq * self.factors[2])

    def _keys(self, mine, piece, packed, visits):
        entry, key_head = divmod(packed, self.key_heads)
        area, group = "landed" if piece else "own", self.heads // self.key_heads
        k, v = (self.part(f"{area}_{x}", 0, mine, packed).double() for x in "kv")
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for side, _, low, high, inside in visits:
            distance = torch.arange(side[1])[:, None] - torch.arange(sum(mine))[mine[0] :]
            seen = (low <= distance) & (distance <= high) & inside[:, None]
            for head in range(key_head * group, (key_head + 1) * group):
                p, ds, q, dout = self._slopes(entry, side, head, k, v, seen)
                dk += ds.T @ q * self.factors[2]
                dv += p.T @ dout
                if "dq" in self.tensors:
                    self.part("dq", entry, side, head).add_(ds @ k * self.factors[2])
        for name, result in (("dk", dk), ("dv", dv)):
            if not self.kernel.endswith({"dk": "_dv", "dv": "_dk"}[name]):
                self.part(f"{area}_{name}", entry, mine, key_head).copy_(result)
