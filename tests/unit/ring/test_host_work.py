"""What a pass of a ring of two asks of the host: counts, which do not depend on the machine.

On a host of two H200 a forward pass over copy engines took 530 us, forward and backward 1780, and
a call of one device 190: for functions of Python's, torch's operations and the driver's calls. Here
they were, before a pass was laid out once for its plan, slot and keys:

                                        Python  torch  driver
    copy_engine, one_launch, forward    139     19     4 batches, 1 copy, 3 events, 2 waits
    copy_engine, one_launch, both       279     62     11 batches, 3 copies, 8 events, 6 waits
    p2p, steps, forward                 182     22     1 batch of messages, 1 wait
    p2p, steps, both                    396     64     3 batches of messages, 3 waits

and twenty of the library's own to ask a kernel whether it gathers, each time. On a GPU torch's
streams and events are Python too, of which most are gone. A bound may rise for a reason, not by
itself.
"""

from __future__ import annotations

import pytest

from tests.unit.ring.ring_stand_in import counted, ring_of_two

BOUNDS = {
    # one more a pass since passes that claim no slot enter by the same function
    ("copy_engine", "forward"): {"python": 68, "torch": 7},
    ("copy_engine", "both"): {"python": 132, "torch": 32},
    # 3 more a batch since messages are sent by the group's own methods, for 30 less of torch's
    ("p2p", "forward"): {"python": 95, "torch": 19},
    ("p2p", "both"): {"python": 216, "torch": 55},
}
ASKED = {
    ("copy_engine", "forward"): {"batch": 4, "copy": 1, "event": 3, "wait": 2},
    ("copy_engine", "both"): {"batch": 11, "copy": 3, "event": 8, "wait": 6},
    ("p2p", "forward"): {"batch": 1, "message": 2, "wait": 1},
    ("p2p", "both"): {"batch": 3, "message": 6, "wait": 3},
}


@pytest.mark.parametrize(("transport", "what"), BOUNDS)
def test_a_pass_asks_no_more_of_the_host_than_this(transport, what):
    with ring_of_two(transport) as (forward, both):
        found = counted({"forward": forward, "both": both}[what])

    for name, bound in BOUNDS[transport, what].items():
        assert found.pop(name) <= bound, name
    assert found == ASKED[transport, what]
