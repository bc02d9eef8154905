"""The Hopper kernels, compiled without a GPU: what they need, and what they use."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

from ring_attn_bench.contract.cache import Cache, CachedCall
from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Documents, Mask, Score

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("nothing compiles where Triton interprets", allow_module_level=True)

from ring_attn_backends.triton.cached.extents import NUMBERS  # noqa: E402 - needs Triton
from ring_attn_backends.triton.hopper import launch, serves, table  # noqa: E402 - need Triton
from ring_attn_backends.triton.hopper.extents import Extent  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.experimental.gluon._runtime import GluonASTSource  # noqa: E402
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor  # noqa: E402
from triton.tools.tensor_descriptor import TensorDescriptor as PlainDescriptor  # noqa: E402

if not triton.__version__.startswith(serves.TRITON_VERSIONS):
    pytest.skip("served by the plain kernels", allow_module_level=True)

TYPES = {
    torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32",
}  # fmt: skip
SHARED_MEMORY = 227 * 1024
"""Bytes that one program may have (CUDA C++ programming guide, table 30)."""
NAMES = ("forward", "backward_dq", "backward_dkdv")


def launched(
    kernel, head_dim, head_dim_v=None, *,
    config=None, carry=False, softcap=0.0, dtype=None, packed=False, tokens=4096, cache=False,
):  # fmt: skip
    """The launch that would be made, of tensors without memory."""
    dtype = dtype or torch.bfloat16

    def tensor(*shape, dtype=dtype):
        return torch.empty(*shape, dtype=dtype, device="meta")

    batch = 1 if packed else 2
    q, k = tensor(batch, tokens, 8, head_dim), tensor(batch, tokens, 4, head_dim)
    v, out = (tensor(batch, tokens, heads, head_dim_v or head_dim) for heads in (4, 8))
    lse = tensor(batch, 8, tokens, dtype=torch.float32)
    dq, dk, dv, acc = (tensor(*x.shape, dtype=torch.float32) for x in (q, k, v, out))
    block = Block((Span(0, tokens),), (Span(0, tokens),), Band(low=0))
    if packed:
        starts = tensor(4, dtype=torch.int32)
        block = Documents(starts, starts, tokens // 2, tokens // 2, Mask(causal=True))
    score = Score(head_dim**-0.5, softcap)
    if cache:
        shares = tensor(2 * batch, NUMBERS, dtype=torch.int32)
        extent = Extent.of_cache(CachedCall(q, Cache(k, v), Mask(causal=True), score), shares)
        out, lse = (torch.cat([x, x]).float() for x in (out, lse))
        return launch.forward_over(q, Keys(k, v), Running(out, lse), extent, score, config=config)
    if kernel == "forward":
        given = (q, Keys(k, v), Running(acc, lse, acc if carry else out), block, score)
        return launch.forward_launch(*given, first=not carry, config=config)
    given = (Rows(q, out, out, lse, lse), Keys(k, v), Sums(dq, dk, dv), block, score)
    make = launch.backward_dq_launch if kernel == "backward_dq" else launch.backward_dkdv_launch
    return make(*given, add=carry, config=config)


def source(call):
    """The kernel with the types and divisibilities that Triton would find in the arguments."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(call.kernel.params):
        value = call.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
            continue
        signature[parameter.name] = triton_type(value)
        if isinstance(value, tuple):
            aligned = [(index, place) for place, stride in enumerate(value) if stride % 16 == 0]
        else:
            aligned = [(index,)] if isinstance(value, torch.Tensor) else []
        attributes |= {path: [["tt.divisibility", 16]] for path in aligned}
    kind = ASTSource if call.config.tma else GluonASTSource
    return kind(call.kernel, signature, constants, attributes)


def triton_type(value):
    if isinstance(value, PlainDescriptor):
        return f"tensordesc<{TYPES[value.base.dtype]}{value.block_shape}>"
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{TYPES[value.base.dtype]}{value.block_shape},{value.layout!r}>"
    if isinstance(value, torch.Tensor):
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, tuple):
        return tuple(triton_type(part) for part in value)
    return "fp32" if isinstance(value, float) else "i32"


def compiled(call, folder):
    """The most bytes that are spilled, and of shared memory, of a launch and its second half."""
    parts = [call, *(part for part in call.after if part.config)]
    return tuple(map(max, zip(*(needs(part, folder) for part in parts), strict=True)))


def needs(call, folder):
    """Spilled bytes and bytes of shared memory."""
    target = GPUTarget("cuda", 90, 32)
    kernel = triton.compile(source(call), target=target, options=call.options)
    ptx, cubin = folder / "kernel.ptx", folder / "kernel.cubin"
    ptx.write_text(kernel.asm["ptx"])
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    said = subprocess.run(
        [tools / "ptxas", "-arch=sm_90a", "-v", ptx, "-o", cubin],
        check=True, capture_output=True, text=True,
    ).stderr  # fmt: skip
    spilled = int(re.search(r"(\d+) bytes stack frame", said)[1])
    registers = int(re.search(r"Used (\d+) registers", said)[1])
    about = call.arguments
    name = f"{call.kernel.__name__} {about['BLOCK_D']}, {about['BLOCK_E']} {call.config}"
    print(f"{name}: {registers} registers, {spilled} B spilled, {kernel.metadata.shared} B shared")

    specialised = not call.config.tma
    assert ("ttg.warp_specialize" in kernel.asm["ttgir"]) == specialised
    assert ("setmaxnreg" in kernel.asm["ptx"]) == specialised
    assert "wgmma.mma_async" in kernel.asm["ptx"]
    dims = 4 if about.get("cu_keys_ptr") is None else 5
    assert f"cp.async.bulk.tensor.{dims}d" in kernel.asm["ptx"]
    # the producer's warp is one of four
    threads = 128 * (call.config.groups + 1) if specialised else 32 * call.config.warps
    assert f".reqntid {threads}" in kernel.asm["ptx"]
    assert registers * threads <= 65536
    assert kernel.metadata.shared <= SHARED_MEMORY
    assert "wgmma.mma_async instructions are serialized" not in said
    return spilled, kernel.metadata.shared


@pytest.mark.parametrize("kernel", NAMES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_what_the_table_says_of_a_configuration_is_so(kernel, head_dim, tmp_path):
    row = table.TABLE[kernel, head_dim]
    spilled, shared = compiled(launched(kernel, head_dim, config=row.config), tmp_path)

    assert spilled <= row.spilled
    assert shared == row.shared


@pytest.mark.parametrize("key", table.FEW, ids=str)
def test_what_the_table_says_of_few_programs_is_so(key, tmp_path):
    row = table.FEW[key]
    spilled, shared = compiled(launched(*key, config=row.config), tmp_path)

    assert spilled <= row.spilled
    assert shared == row.shared


@pytest.mark.parametrize(("tokens", "rows"), [(2048, 128), (8192, 128), (16384, 192), (65536, 192)])
def test_few_programs_get_smaller_tiles(tokens, rows):
    q, k = (torch.empty(1, tokens, heads, 128, device="meta") for heads in (16, 4))

    assert table.chosen("backward_dq", q, Keys(k, k)).own == rows
    assert table.chosen("forward", q, Keys(k, k)) == table.TABLE["forward", 128].config


@pytest.mark.parametrize("kernel", NAMES)
def test_it_goes_on_from_what_is_there_without_spilling(kernel, tmp_path):
    call = launched(kernel, 128, carry=True, dtype=torch.float16)
    spilled, _ = compiled(call, tmp_path)

    assert spilled <= 8


@pytest.mark.parametrize("kernel", NAMES)
@pytest.mark.parametrize("head_dims", [(192, 128), (96, 96), (64, 128), (40, 56)], ids=str)
def test_head_dims_between_the_widths_compile(kernel, head_dims, tmp_path):
    spilled, _ = compiled(launched(kernel, *head_dims), tmp_path)

    assert spilled <= 64


@pytest.mark.parametrize("kernel", NAMES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_documents_need_hardly_more_than_one_sequence(kernel, head_dim, tmp_path):
    row = table.TABLE[kernel, head_dim]
    spilled, shared = compiled(launched(kernel, head_dim, packed=True, config=row.config), tmp_path)

    # most with Triton 3.6: backward_dkdv spills 48 bytes at 256 and 8 at 128. Where it stores lines
    # itself, it takes 16 bytes more shared memory
    assert spilled <= max(row.spilled, 48 if head_dim == 256 else 8)
    assert shared <= row.shared + (16 if kernel == "backward_dkdv" else 0)


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_rows_of_a_cache_need_hardly_more_than_one_sequence(head_dim, tmp_path):
    row = table.TABLE["forward", head_dim]
    spilled, shared = compiled(launched("forward", head_dim, cache=True), tmp_path)

    assert spilled <= row.spilled + 8
    assert shared == row.shared


def test_lengths_that_tma_reads_no_line_of_spill_no_more(tmp_path):
    row = table.TABLE["backward_dkdv", 128]
    call = launched("backward_dkdv", 128, tokens=4095, config=row.config)
    spilled, shared = compiled(call, tmp_path)

    assert call.arguments["lse_desc"] is None
    assert spilled <= row.spilled
    assert shared <= row.shared + 16  # as with documents


@pytest.mark.parametrize("kernel", NAMES)
def test_a_softcap_compiles(kernel, tmp_path):
    compiled(launched(kernel, 128, softcap=30.0), tmp_path)


def test_two_chunks_are_left_to_the_plain_kernels_unless_one_band_of_indices_holds():
    q = torch.empty(1, 256, 4, 64, dtype=torch.bfloat16)
    zigzag = (Span(0, 128), Span(896, 128))
    tensors, score = (q, q, q), Score(0.125)

    assert serves.lacks(tensors, Block(zigzag, zigzag, Band(low=0)), score) is None
    assert serves.lacks(tensors, Block(zigzag, zigzag, Band(low=0, high=200)), score)


@pytest.mark.full
@pytest.mark.parametrize("kernel", NAMES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_every_candidate_compiles(kernel, head_dim, tmp_path):
    for config in table.CANDIDATES[kernel, head_dim]:
        for carry in (False, True):  # each is verified going on from what is there, too
            compiled(launched(kernel, head_dim, config=config, carry=carry), tmp_path)
