"""Other modules in the place of a peer's imports: for that import alone, and without a trace."""

import inspect
import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
from ring_attn_backends.peers.flash_attn_kernels import Triton, ours_as_flash_attn
from ring_attn_backends.peers.stand_ins import flash_attn_modules, standing_in

from ring_attn_bench import Unsupported, flash_attn
from ring_attn_bench.plan.problem import Problem

PEER = "from flash_attn.flash_attn_interface import _flash_attn_forward as kernel\n"


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A package that imports flash-attn's function, and one called flash_attn that has another."""
    (tmp_path / "some_peer").mkdir()
    (tmp_path / "some_peer" / "__init__.py").write_text("from .ring import kernel\n")
    (tmp_path / "some_peer" / "ring.py").write_text(PEER)
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("")
    text = "def _flash_attn_forward():\n    return 'its own'\n"
    (tmp_path / "flash_attn" / "flash_attn_interface.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(sys.modules)
    yield "some_peer"
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def imported(peer, stand_ins):
    with standing_in(stand_ins, private=peer):
        return import_module(peer)


def modules(word):
    return flash_attn_modules(lambda: word, lambda: None, lambda: None)


def test_each_variant_has_a_copy_of_the_peer_with_its_own_kernel(peer):
    first, second, own = (imported(peer, x) for x in (modules("one"), modules("two"), {}))

    assert (first.kernel(), second.kernel(), own.kernel()) == ("one", "two", "its own")


def test_afterwards_everybody_else_imports_what_is_installed(peer):
    installed = import_module("flash_attn.flash_attn_interface")

    imported(peer, modules("one"))

    assert import_module("flash_attn.flash_attn_interface") is installed
    assert not [name for name in sys.modules if name.startswith(peer)]


def test_a_peer_that_does_not_import_leaves_no_stand_in_behind(peer):
    without_functions = {name: ModuleType(name) for name in modules("one")}

    with pytest.raises(ImportError, match="_flash_attn_forward"):
        imported(peer, without_functions)

    assert "flash_attn" not in sys.modules
    assert peer not in sys.modules


def test_a_peer_that_was_there_before_is_there_again(peer):
    before = import_module(peer)

    copy = imported(peer, modules("one"))

    assert sys.modules[peer] is before
    assert (before.kernel(), copy.kernel()) == ("its own", "one")


def test_our_functions_stand_there_with_one_backend_and_the_arguments_that_peers_look_up(peer):
    kernel = imported(peer, ours_as_flash_attn("reference")).kernel
    x = torch.randn(1, 6, 2, 8)
    how = 0.0, None, True, -1, -1, 0.0, None, False

    assert inspect.isfunction(kernel)
    assert inspect.getfullargspec(kernel) == inspect.getfullargspec(flash_attn._flash_attn_forward)
    right = flash_attn._flash_attn_forward(x, x, x, *how, backend="reference")
    assert all(map(torch.equal, kernel(x, x, x, *how), right))
    with pytest.raises(Unsupported, match="no softcap"):
        imported(peer, ours_as_flash_attn("aten")).kernel(x, x, x, *how[:5], 2.0, *how[6:])


def test_our_triton_kernels_in_a_peer_say_what_they_need():
    problem = Problem(1, 64, 2, 2, 16, 16, "float32", "cpu")

    assert "TRITON_INTERPRET=1" in Triton().unsupported(problem)
    assert Triton().version().startswith("triton ")
    assert Triton().name == "triton"
