"""On a GPU: a self-check finds nothing wrong, and says what each look is for."""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench.machine.self_check import look_around

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280)]


def test_a_sound_machine_is_found_sound():
    looks = {look.what: look for look in look_around()}

    several = {"peer access", "copies"} if torch.cuda.device_count() > 1 else set()
    assert set(looks) == {"attention", "clocks", "transports", "multicast"} | several
    assert [x for x in looks.values() if x.is_right is False] == []
    assert looks["attention"].is_right
    assert "MHz" in looks["clocks"].found or "not known" in looks["clocks"].found
