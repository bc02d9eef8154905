"""A launch that was made before: new addresses, and everything else as it was."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from ring_attn_backends.triton.hopper import descriptors, prepared


def tensor(tokens=64):
    return torch.zeros(1, tokens, 2, 64, dtype=torch.bfloat16)


def launch(arguments, seen, scratch=()):
    kernel = {(1, 1, 1): lambda *given: seen.append(given)}
    return SimpleNamespace(
        arguments=arguments, grid=(1, 1, 1), scratch=scratch, after=(), compiled=lambda: (kernel,)
    )


def test_another_tensor_takes_the_place_of_the_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)  # what a CPU tensor's number is
    seen, first, second = [], (tensor(), tensor()), (tensor(), tensor())
    arguments = {"desc": descriptors.tiles(first[0], 32), "ptr": first[1], "number": 7}
    found = prepared.run_first(launch(arguments, seen), first)
    found.run(second)

    ((descriptor, address, number),) = seen
    assert descriptor.base is second[0]
    assert descriptor.block_shape == arguments["desc"].block_shape
    assert arguments["desc"].base is first[0]
    assert (address, number) == (second[1].data_ptr(), 7)


def test_scratch_is_made_anew(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)
    seen, scratch = [], torch.empty(2, 3)
    found = prepared.run_first(launch({"shares_ptr": scratch}, seen, (scratch,)), (tensor(),))
    found.run((tensor(),))

    assert found.scratch == ((2, 3),)
    assert seen[0][0] != scratch.data_ptr()


def test_a_launch_on_a_copy_is_made_each_time():
    assert prepared.run_first(launch({"ptr": tensor()}, []), (tensor(),)) is None


def test_the_signature_tells_apart_what_a_launch_depends_on():
    x, y = tensor(), tensor()

    assert prepared.signature((x, y)) == prepared.signature((y, x))
    assert prepared.signature((x, y)) != prepared.signature((x, x))
    assert prepared.signature((x, y)) != prepared.signature((x, tensor(65)))
    odd = torch.zeros(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape)
    assert prepared.signature((x, y)) != prepared.signature((x, odd))
