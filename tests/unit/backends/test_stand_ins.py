"""Other modules in the place of a peer's imports: for that import alone, and without a trace."""

import sys
from importlib import import_module
from types import ModuleType

import pytest
from ring_attn_backends.peers.stand_ins import flash_attn_modules, standing_in

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
