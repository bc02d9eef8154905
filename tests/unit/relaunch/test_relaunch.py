"""A launch that was made before: new addresses, and everything else as it was."""

import ctypes
from types import SimpleNamespace

import pytest
import torch

from ring_attn_bench import relaunch as package
from ring_attn_bench.relaunch import Kept, Made, calls, relaunch, signature
from ring_attn_bench.relaunch.driver import INVALID_CONTEXT, TENSOR_MAP_BYTES, LaunchConfig

triton = pytest.importorskip("triton")
from triton.tools.tensor_descriptor import TensorDescriptor  # noqa: E402 - needs Triton

STREAM = 77


def tensor(tokens=64):
    return torch.zeros(1, tokens, 2, 64, dtype=torch.bfloat16)


def described(base):
    return TensorDescriptor(base, list(base.shape), list(base.stride()), [1, 32, 1, 64])


class FakeDriver:
    """Reads a kernel's parameters as a GPU would: from memory, at the time of the launch."""

    def __init__(self, sizes, statuses=()):
        self.sizes, self.statuses, self.launches = sizes, list(statuses), []
        self.entered, self.encoded = [], []

    def parameter_sizes(self, function):
        return self.sizes

    def encode(self, tensor_map, dtype, address, shape, strides, box, swizzle):
        assert tensor_map % 64 == 0
        self.encoded.append((dtype, address, shape, strides, box, swizzle))

    def replace_address(self, tensor_map, address):
        ctypes.c_uint64.from_address(tensor_map).value = address
        return 0

    def launch(self, config, function, parameters, extra):
        status = self.statuses.pop(0) if self.statuses else 0
        if status == 0:
            size = ctypes.sizeof(LaunchConfig)
            config = LaunchConfig.from_buffer_copy(ctypes.string_at(config, size))
            places = (ctypes.c_void_p * len(self.sizes)).from_address(parameters)
            read = [
                ctypes.string_at(place, size)
                for place, size in zip(places, self.sizes, strict=True)
            ]
            self.launches.append((config, function, read, config.stream))
        return status

    def enter(self, device):
        self.entered.append(device)

    def check(self, status, what):
        if status:
            raise RuntimeError(f"{what} failed with {status}.")


SIGNATURE = {
    "desc": "tensordesc<bf16[1, 32, 1, 64]>",
    "ptr": "*bf16",
    "none_ptr": "constexpr",
    "strides": ("i64", "constexpr", "i32"),
    "number": "i32",
    "scale": "fp32",
    "BLOCK": "constexpr",
}
SIZES = [TENSOR_MAP_BYTES, *[4] * 4, *[8] * 4, 8, 8, 4, 4, 4, 8, 8]


def made(first, second, **changed):
    about = {
        "num_warps": 12, "shared": 1000, "num_ctas": 1, "launch_pdl": False,
        "launch_cooperative_grid": False, "global_scratch_size": 0, "profile_scratch_size": 0,
        "tensordesc_meta": [
            {"elem_size": 2, "swizzle": 3, "block_size": [1, 32, 1, 64], "fp4_padded": False}
        ],
        **changed,
    }  # fmt: skip
    seen = []

    class Compiled:
        metadata = SimpleNamespace(**about)
        src = SimpleNamespace(signature=SIGNATURE)
        function = 1234

        def __getitem__(self, grid):
            return lambda *given, stream: seen.append((grid, given, stream))

    arguments = (described(first), second, None, (2**40, 1, 7), 5, 0.25, 64)
    return Made(Compiled(), (3, 2, 1), arguments), seen


@pytest.fixture
def fake(monkeypatch):
    found = FakeDriver(SIZES)
    monkeypatch.setattr(calls, "driver", lambda: found)
    # a CPU tensor's device is number -1
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)
    monkeypatch.setattr(
        triton.runtime.driver, "_active", SimpleNamespace(get_current_stream=lambda _: STREAM)
    )
    return found


def number(kind, raw):
    return kind.from_buffer_copy(raw).value


def test_the_driver_gets_every_parameter_as_tritons_launcher_would_give_it(fake):
    first, second = tensor(), tensor()
    call, seen = made(first, second)
    relaunch([call], (first, second)).run((first, second))

    ((config, function, read, stream),) = fake.launches
    assert (function, stream, seen) == (1234, STREAM, [])
    assert (config.grid_x, config.grid_y, config.grid_z) == (3, 2, 1)
    assert (config.block_x, config.block_y, config.block_z, config.shared) == (384, 1, 1, 1000)
    assert [number(ctypes.c_int32, x) for x in read[1:5]] == list(first.shape)
    assert [number(ctypes.c_int64, x) for x in read[5:9]] == list(first.stride())
    assert number(ctypes.c_uint64, read[9]) == second.data_ptr()
    assert number(ctypes.c_int64, read[10]) == 2**40
    assert [number(ctypes.c_int32, x) for x in read[11:13]] == [7, 5]
    assert number(ctypes.c_float, read[13]) == 0.25
    assert read[14:] == [bytes(8), bytes(8)]
    bfloat16, strides = 9, [2 * x for x in first.stride()[:-1]]
    assert fake.encoded == [
        (bfloat16, first.data_ptr(), list(first.shape), strides, [1, 32, 1, 64], 3)
    ]


def test_other_tensors_take_the_places_of_the_first(fake):
    first, others = (tensor(), tensor()), (tensor(), tensor())
    call, _ = made(*first)
    found = relaunch([call], first)
    for given in (first, others, first):
        found.run(given)

    addresses = [
        (number(ctypes.c_uint64, read[0][:8]), number(ctypes.c_uint64, read[9]))
        for _, _, read, _ in fake.launches
    ]
    expected = [tuple(x.data_ptr() for x in given) for given in (first, others, first)]
    assert addresses == expected


@pytest.mark.parametrize(
    "about",
    [{"num_ctas": 2}, {"launch_pdl": True}, {"global_scratch_size": 8}, {"tensordesc_meta": []}],
    ids=str,
)
def test_what_the_driver_cannot_be_given_goes_through_tritons_launcher(fake, about):
    first, others = (tensor(), tensor()), (tensor(), tensor())
    call, seen = made(*first, **about)
    relaunch([call], first).run(others)

    ((grid, given, stream),) = seen
    assert (grid, stream, fake.launches) == ((3, 2, 1), STREAM, [])
    assert given[0].base is others[0]
    assert given[0].shape == list(first[0].shape)
    assert call.arguments[0].base is first[0]
    assert given[1:] == (others[1].data_ptr(), *call.arguments[2:])


def test_a_kernel_with_other_parameters_than_were_packed_goes_through_tritons_launcher(fake):
    first = tensor(), tensor()
    fake.sizes = [*SIZES, 8]
    call, seen = made(*first)
    relaunch([call], first).run(first)

    assert fake.launches == []
    assert len(seen) == 1


def test_a_thread_without_a_context_gets_one(fake):
    first = tensor(), tensor()
    fake.statuses = [INVALID_CONTEXT]
    relaunch([made(*first)[0]], first).run(first)

    assert fake.entered == [-1]
    assert len(fake.launches) == 1


def test_a_launch_that_fails_raises(fake):
    first = tensor(), tensor()
    fake.statuses = [719]

    with pytest.raises(RuntimeError, match="719"):
        relaunch([made(*first)[0]], first).run(first)


def test_addresses_are_filled_in_again_after_a_descriptor_was_refused(fake, monkeypatch):
    first, others = (tensor(), tensor()), (tensor(), tensor())
    found = relaunch([made(*first)[0]], first)
    found.run(first)
    with monkeypatch.context() as patch:
        patch.setattr(fake, "replace_address", lambda *_: 1)
        with pytest.raises(RuntimeError, match="cuTensorMapReplaceAddress"):
            found.run(others)
    found.run(first)

    _, _, read, _ = fake.launches[-1]
    assert number(ctypes.c_uint64, read[9]) == first[1].data_ptr()


def test_scratch_is_made_anew_and_aligned(fake):
    first, scratch = tensor(), (torch.empty(3, 5), torch.empty(7))
    parts = [made(first, x)[0] for x in scratch]
    relaunch(parts, (first,), scratch).run((first,))

    one, two = (number(ctypes.c_uint64, read[9]) for _, _, read, _ in fake.launches)
    assert {one, two}.isdisjoint(x.data_ptr() for x in scratch)
    assert two - one == 64 * 4  # 15 numbers, in whole lines


def test_a_launch_on_a_copy_is_made_each_time():
    assert relaunch([made(tensor(), tensor())[0]], (tensor(),)) is None


def test_what_was_interpreted_is_made_each_time():
    assert relaunch([Made(None, (1, 1, 1), ())], (tensor(),)) is None


def test_the_signature_tells_apart_what_a_launch_depends_on():
    x, y = tensor(), tensor()

    assert signature((x, y)) == signature((y, x))
    assert signature((x, y)) != signature((x, x))
    assert signature((x, y)) != signature((x, tensor(65)))
    odd = torch.zeros(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape)
    assert signature((x, y)) != signature((x, odd))


def test_launches_are_not_kept_without_end(monkeypatch):
    monkeypatch.setattr(package, "KEPT", 3)
    kept = Kept()
    for key in range(4):
        kept[key] = None

    assert list(kept) == [3]
