"""All kernels that calls may ask for, compiled before they are: no GPU is needed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from itertools import product
from pathlib import Path

from ring_attn_backends.cute import build
from ring_attn_backends.cute.table import (
    ADDS,
    BACKWARD,
    GATHERED,
    PACKED,
    Build,
    Config,
    Dtype,
    Kernel,
    serving,
)
from ring_attn_bench.contract.ahead import CompiledAhead
from ring_attn_bench.errors import BackendUnavailable

DTYPES: tuple[Dtype, ...] = "bfloat16", "float16"


def builds() -> Iterator[Build]:
    """Of every configuration in the tables: each dtype and switch, to q's dtype and to float32."""
    for dtype, capped, carried in product(DTYPES, (False, True), (False, True)):
        outs: tuple[Dtype, ...] = dtype, "float32"
        for config, out in product(serving(), outs):
            yield Build(config, dtype, out, capped, carried)
        for kernel, config in backwards():
            for out in outs[carried:]:  # what is added to is float32
                yield Build(config, dtype, out, capped, carried, kernel)
    yield from gathered_builds()
    yield from packed_builds()


def backwards() -> Iterator[tuple[Kernel, Config]]:
    """The kernels of a block's backward, as the tables have them."""
    for (kernel, _), config in BACKWARD.items():
        yield kernel, config
    for config in ADDS.values():
        yield "backward_adding", config


def gathered_builds() -> Iterator[Build]:
    """Those over gathered keys, as rings ask for them: gradients of own keys in float32, and of
    others' in the dtype in which they travel."""
    for dtype, capped in product(DTYPES, (False, True)):
        for config in serving():
            yield Build(config, dtype, dtype, capped, kernel="gathered.forward")
        for kernel, config in backwards():
            if kernel == "backward_dq":
                yield Build(config, dtype, dtype, capped, kernel="gathered.backward_dq")
                continue
            aways: tuple[Dtype, ...] = dtype, "float32"
            for away in aways:
                yield Build(config, dtype, "float32", capped, kernel=GATHERED[kernel], away=away)


def packed_builds(forwards: Iterable[Config] | None = None) -> Iterator[Build]:
    """Those over packed documents, whose results are of q's dtype; forwards: the table's if not
    others, each with the backward of its head dim."""
    forwards = tuple(PACKED.values() if forwards is None else forwards)
    dims = {config.width for config in forwards}
    kernels: list[tuple[Kernel, Config]] = [("packed.forward", config) for config in forwards]
    for dim in sorted(dims):
        kernels.append(("packed.backward_dkdv", BACKWARD["backward_dkdv", dim]))
        kernels.append(("packed.backward_dq", BACKWARD["backward_dq", dim]))
    for dtype, capped, (kernel, config) in product(DTYPES, (False, True), kernels):
        yield Build(config, dtype, dtype, capped, kernel=kernel)


def compile_all(
    jobs: int, folder: Path | None = None, wanted: Iterable[Build] | None = None
) -> Iterator[CompiledAhead]:
    """Each when it is done, so many at a time, every one by a process of its own.

    wanted: by itself all that calls may ask for. Raises BackendUnavailable with what the compiler
    said, or why nothing can be kept.
    """
    try:
        where = folder or build.kept_in()
    except OSError as error:
        raise BackendUnavailable("cute", str(error)) from error
    return _compile_all(jobs, where, builds() if wanted is None else wanted)


def _compile_all(jobs: int, folder: Path, wanted: Iterable[Build]) -> Iterator[CompiledAhead]:
    with ThreadPoolExecutor(jobs) as threads:
        work = partial(_compile, folder)
        pending = [threads.submit(work, one) for one in wanted]
        try:
            for future in as_completed(pending):
                yield future.result()
        finally:  # who stops listening waits for those that have begun alone
            for future in pending:
                future.cancel()


def _compile(folder: Path, one: Build) -> CompiledAhead:
    begun = time.perf_counter()
    was_there = (folder / build.name_of(one)).is_file()
    try:
        build.build_all([one], folder)
    except OSError as error:
        raise BackendUnavailable("cute", str(error)) from error
    return CompiledAhead(str(one), None if was_there else time.perf_counter() - begun)
