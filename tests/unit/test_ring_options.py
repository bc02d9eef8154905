"""How keys travel is a name in one table; what a ring is told is checked when it is said."""

from importlib.metadata import EntryPoint

import pytest

from ring_attn_bench import RingOptions, registry
from ring_attn_bench.errors import InvalidArgument, TransportUnavailable, UnknownName
from ring_attn_bench.ring.link import GroupTransport
from ring_attn_bench.ring.transports.choose import transport_for


@pytest.fixture
def others(monkeypatch):
    """Transports of third parties, by name."""
    table = {}

    def found(group):
        assert group == registry.TRANSPORT_ENTRY_POINT_GROUP == "ring_attn_bench.transports"
        return [EntryPoint(name, target, group) for name, target in table.items()]

    monkeypatch.setattr(registry, "entry_points", found)
    registry.transport_class.cache_clear()
    yield table
    registry.transport_class.cache_clear()


class Theirs:
    """Serves rings of even ranks; a group is a number here."""

    def __init__(self, group, options):
        self.made_with = group, options

    @staticmethod
    def unsupported(group):
        return None if group % 2 == 0 else f"{group} ranks are no pairs"


@pytest.mark.parametrize("name", registry.TRANSPORTS)
def test_every_transport_of_the_table_is_one(name):
    found = registry.transport_class(name)

    wanted = {word for word in vars(GroupTransport) if not word.startswith("_")}
    assert {"unsupported"} <= wanted
    assert all(hasattr(found, word) for word in (*wanted, "outgoing", "begin"))
    assert (found.__doc__ or "").strip()


@pytest.mark.parametrize("name", ["twin", "loopback", "alone", "played", "own", "p2q"])
def test_what_brings_no_rank_the_bytes_of_another_is_no_transport_of_a_ring(name):
    with pytest.raises(UnknownName, match=f"unknown transport {name!r}.*Known: auto, p2p"):
        RingOptions(transport=name)


def test_another_package_adds_a_transport_by_name(others):
    others["theirs"] = "tests.unit.test_ring_options:Theirs"
    options = RingOptions(transport="theirs")

    name, transport = transport_for(options, 2)

    assert name == "theirs"
    assert type(transport).__name__ == "Theirs"
    assert transport.made_with == (2, options)


def test_it_is_not_imported_before_it_is_used_and_what_then_fails_is_said(others):
    others["broken"] = "no_such_module:Transport"
    options = RingOptions(transport="broken")

    with pytest.raises(TransportUnavailable, match=r"'broken' .* no_such_module"):
        transport_for(options, 2)


def test_a_transport_that_cannot_serve_the_ranks_is_refused_with_its_reason(others):
    others["theirs"] = "tests.unit.test_ring_options:Theirs"

    with pytest.raises(TransportUnavailable, match="'theirs' is unavailable here: 3 ranks are no"):
        transport_for(RingOptions(transport="theirs"), 3)


def test_auto_takes_the_first_that_the_group_can_do(monkeypatch):
    table = dict.fromkeys(("first", "second"), "tests.unit.test_ring_options:Theirs")
    monkeypatch.setattr(registry, "transports", lambda: table)
    monkeypatch.setattr(registry, "check_transport", lambda name: None)
    registry.transport_class.cache_clear()

    assert transport_for(RingOptions(), 2)[0] == "first"
    with pytest.raises(TransportUnavailable, match="first: 3 ranks are no pairs; second: 3 ranks"):
        transport_for(RingOptions(), 3)
    registry.transport_class.cache_clear()


def test_a_third_party_cannot_take_a_name_of_the_table(others):
    others["p2p"] = "no_such_module:Transport"

    assert registry.transports() == registry.TRANSPORTS


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"gradients": "bfloat16"}, "unknown gradient dtype 'bfloat16'"),
        ({"slots": 0}, "at least 1"),
    ],
)
def test_a_mistake_is_a_sentence(wrong, sentence):
    with pytest.raises((UnknownName, InvalidArgument), match=sentence):
        RingOptions(**wrong)
