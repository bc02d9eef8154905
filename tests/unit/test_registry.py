"""Backends by name: lazy, complete, and broken ones cost nobody else anything."""

import signal
import sys
from functools import partial
from importlib.metadata import EntryPoint

import pytest
import torch

from ring_attn_bench import registry
from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.contract.peer import Peer
from ring_attn_bench.errors import BackendUnavailable, Terminated, UnknownName
from ring_attn_bench.plan.block import Form


@pytest.mark.parametrize("name", registry.backends())
def test_every_backend_of_the_table_names_itself_and_its_forms(name):
    found: type[Backend] = registry.backend_class(name)

    assert found.name == name
    assert {Form.FULL, Form.CAUSAL} <= found.forms
    assert (found.__doc__ or "").strip()


def test_an_unknown_name_says_which_there_are_and_which_is_near():
    with pytest.raises(UnknownName, match="Did you mean 'triton'") as raised:
        registry.load("tritn")

    assert "reference" in str(raised.value)


@pytest.mark.parametrize("name", registry.peers())
def test_every_peer_of_the_table_names_itself_without_the_prefix(name):
    found: type[Peer] = registry.peer_class(name)

    assert registry.PEER_PREFIX + found.name == name
    assert found.kernel is None or isinstance(found.kernel, str)
    assert (found.__doc__ or "").strip()


def test_a_peer_is_no_backend_and_is_not_asked_by_auto():
    assert not any(registry.is_peer(name) for name in registry.backends())
    with pytest.raises(UnknownName, match="unknown backend"):
        registry.check_known("torch_cp[math]")
    with pytest.raises(UnknownName, match=r"unknown peer .* Did you mean 'peer:torch_cp"):
        registry.load_contestant("peer:torch_cp[maths]")


def test_a_backend_whose_constructor_raises_is_unavailable_with_that_reason(monkeypatch):
    monkeypatch.setattr(registry, "backend_class", lambda name: Bad)
    registry.load.cache_clear()

    with pytest.raises(BackendUnavailable, match="ZeroDivisionError"):
        registry.load("bad")

    registry.load.cache_clear()


@pytest.fixture
def plug_in(monkeypatch, tmp_path):
    """Makes a module of that source the backend `planted`, and imports it."""

    def imports(source):
        (tmp_path / "planted_plug_in.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "planted_plug_in", raising=False)
        monkeypatch.setattr(registry, "backends", lambda: {"planted": "planted_plug_in:Kind"})
        registry.backend_class.cache_clear()
        try:
            return registry.backend_class("planted")
        finally:
            registry.backend_class.cache_clear()

    return imports


def test_a_backend_that_exits_when_it_is_imported_is_unavailable(plug_in):
    with pytest.raises(BackendUnavailable, match="planted_plug_in:Kind failed with SystemExit: 3"):
        plug_in("import sys\nsys.exit(3)\n")


class Handler:
    """As people write them."""

    def leave(self, number, frame):
        sys.exit(7)

    def __call__(self, *arguments):
        self.leave(*arguments)


def by_program(*_):
    raise Terminated


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (lambda number, frame: sys.exit(7), SystemExit),
        (Handler(), SystemExit),
        (partial(Handler().leave), SystemExit),
        (by_program, Terminated),
    ],
)
def test_a_signal_while_a_backend_is_imported_ends_the_program_all_the_same(plug_in, handler, kind):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(kind):
            plug_in("import signal\nsignal.raise_signal(signal.SIGTERM)\nclass Kind: pass\n")
    finally:
        signal.signal(signal.SIGTERM, before)


class Bad:
    """Cannot be made."""

    def __init__(self):
        raise ZeroDivisionError("one over nothing")


def test_auto_takes_this_projects_transport_whatever_other_packages_offer(monkeypatch):
    theirs = [EntryPoint("aaa", "theirs:Better", registry.TRANSPORT_ENTRY_POINT_GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: theirs)

    *ours, last = registry.transports()

    assert (ours, last) == (list(registry.TRANSPORTS), "aaa")
    assert registry.EVERYWHERE in ours
    assert registry.transport_class(registry.EVERYWHERE).unsupported(None) is None  # of any group
    # what comes behind it is asked for by name: it does not take all options
    assert ours.index(registry.EVERYWHERE) < ours.index("all_gather")


@pytest.mark.parametrize(
    "name", [None, 3, b"aten", ["aten"], {}, 10**5000, torch.ones(2)], ids=type
)
@pytest.mark.parametrize(
    "look_up",
    [registry.load, registry.backend_class, registry.load_peer, registry.peer_class,
     registry.transport_class, registry.load_contestant, registry.contestant_class,
     registry.check_known, registry.check_transport],
    ids=lambda look_up: look_up.__name__,
)  # fmt: skip
def test_what_is_no_name_is_an_unknown_one(look_up, name):
    with pytest.raises(UnknownName, match=r"unknown (backend|peer|transport) .*Known: "):
        look_up(name)
    assert not registry.is_peer(name)


def test_a_backend_is_no_peer_and_a_peer_no_backend():
    with pytest.raises(UnknownName, match="unknown peer 'aten'"):
        registry.peer_class("aten")
    with pytest.raises(UnknownName, match="unknown backend 'peer:"):
        registry.backend_class(next(iter(registry.peers())))


def test_over_a_cache_auto_asks_triton_before_what_nobody_measured_there():
    names = list(registry.backends())
    assert registry.over_a_cache() == ("triton", *(name for name in names if name != "triton"))


def test_a_table_without_those_that_come_first_is_asked_as_it_is(monkeypatch):
    monkeypatch.setattr(registry, "backends", lambda: {"b": "b:B", "a": "a:A"})
    assert registry.over_a_cache() == ("b", "a")
