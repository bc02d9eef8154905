"""Imports a peer with other modules in place of some of those that it asks for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

_FLASH_ATTN = "flash_attn"
_INTERFACE = "flash_attn.flash_attn_interface"
_VARLEN = ("_flash_attn_varlen_forward", "_flash_attn_varlen_backward")


@contextmanager
def standing_in(modules: Mapping[str, ModuleType], private: str) -> Iterator[None]:
    """Inside, `modules` are what these names import; afterwards all is as it was.

    private: the package to import inside. It is forgotten afterwards but by those who hold it, so
    that another variant gets a copy of its own, with its own stand-ins.
    """
    before = _remove(modules, private)
    sys.modules.update(modules)
    try:
        yield
    finally:
        _remove(modules, private)
        sys.modules.update(before)


def _remove(modules: Mapping[str, ModuleType], private: str) -> dict[str, ModuleType]:
    """Takes these modules and the package out of the loaded ones, and returns what was there."""
    names = [
        name
        for name in sys.modules
        if name in modules or name == private or name.startswith(f"{private}.")
    ]
    return {name: sys.modules.pop(name) for name in names}


def flash_attn_modules(
    forward: Callable[..., object],
    backward: Callable[..., object],
    function: Callable[..., object],
    varlen: tuple[Callable[..., object] | None, Callable[..., object] | None] = (None, None),
) -> dict[str, ModuleType]:
    """`flash_attn` with what peers import from it: the two calls below autograd, and the one above.

    varlen: the two below autograd of packed documents, None where nobody calls them.
    forward, backward: named as flash-attn 2.8 names their arguments, which peers look up.
    """
    package, interface = ModuleType(_FLASH_ATTN), ModuleType(_INTERFACE)
    contents: dict[str, object] = {
        "flash_attn_func": function,
        "_flash_attn_forward": forward,
        "_flash_attn_backward": backward,
        **dict(zip(_VARLEN, varlen, strict=True)),
    }
    vars(interface).update(contents)
    vars(package).update({"flash_attn_func": function, "flash_attn_interface": interface})
    return {_FLASH_ATTN: package, _INTERFACE: interface}
