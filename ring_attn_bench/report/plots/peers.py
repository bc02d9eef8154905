"""How other people's rings are drawn: in the colour of the kernel inside, hatched, markers open.

So a picture shows at a glance which ring is ours and which is theirs around the same kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ring_attn_bench.registry import PEER_PREFIX

OTHER_HATCH = "\\\\\\"
_NAME = re.compile(rf"{PEER_PREFIX}(?P<package>[^\[]*)(\[(?P<words>.*)\])?")
_KERNELS: Mapping[str, str] = {
    "flash_attn_2": "flash_attn_2",
    "flash_attn_3": "flash_attn_3",
    "flash_attn_4": "flash_attn_4",
    "cudnn": "cudnn",
    "flash": "aten",  # torch's
    "math": "reference",
}
"""By the word in a peer's name, the backend of ours with that kernel."""
_LOOKS: Mapping[str, tuple[str, str]] = {
    "ring_flash_attn": (">", "////"),
    "torch_cp,alltoall": ("v", "---"),
    "torch_cp,allgather": ("P", "|||"),
    "torch_cp": ("d", "---"),
    "yunchang,ulysses": ("*", "xxx"),
}
"""By package and variant, marker and hatch."""


@dataclass(frozen=True, slots=True)
class PeerLook:
    """What is known of a peer from its name: the kernel's backend, its marker and its hatch."""

    backend: str
    marker: str
    hatch: str


def look(backend: str) -> PeerLook | None:
    """The look of a peer that is known here; None for any other."""
    match = _NAME.fullmatch(backend)
    if match is None:
        return None
    words = (match["words"] or "").split(",")
    kernel = next((_KERNELS[word] for word in words if word in _KERNELS), None)
    variant = [word for word in words if word and word not in _KERNELS]
    looks = _LOOKS.get(",".join((match["package"], *variant)))
    return None if kernel is None or looks is None else PeerLook(kernel, *looks)
