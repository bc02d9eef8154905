"""The host's part of a compiled CuTe launch, run without a GPU: what TMA's descriptors hold."""

import ctypes
import json
import os
import re
import subprocess
import sys

from ring_attn_backends.cute import build
from ring_attn_backends.cute.signatures import SIGNATURES

from tests.patience import limit

RUNTIME = """
#include <stdint.h>
#include <stdio.h>
#include <string.h>
int _cuKernelGetAttribute(void) { return 0; }
int _cudaDeviceGetAttribute(void) { return 0; }
int _cudaFuncSetAttribute(void) { return 0; }
int _cudaGetDevice(int *device) { *device = 0; return 0; }
int _cudaKernelSetAttributeForDevice(void) { return 0; }
int _cudaLibraryGetKernel(void) { return 0; }
int _cudaLibraryLoadData(void) { return 0; }
int _cudaLaunchKernelEx(void *config, void *kernel, void **arguments) {
    const int atoms[] = {ATOMS};
    for (unsigned i = 0; i < sizeof(atoms) / sizeof(int); ++i) {
        uint32_t words[16];
        memcpy(words, arguments[atoms[i]], 64);
        for (int j = 0; j < 16; ++j) printf("%u ", words[j]);
        printf("\\n");
    }
    fflush(stdout);
    return 0;
}
"""
"""A CUDA runtime that prints the descriptors that a kernel is launched with."""


def descriptors(one, numbers, atoms, folder):
    """By address, the first 16 words of each descriptor that the kernel is launched with.

    numbers: the launch's, as its signature has them. atoms: which of the kernel's arguments.
    """
    (kept,) = build.build_all([one], folder)
    (folder / "runtime.c").write_text(RUNTIME.replace("ATOMS", ", ".join(map(str, atoms))))
    linked = folder / "launch.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", linked, folder / "runtime.c", kept],
        check=True, timeout=limit(60),
    )  # fmt: skip
    told = json.dumps([one.kernel, str(linked), numbers])
    code = f"from {__name__} import launched; launched(*{told})"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=limit(60),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    words = [list(map(int, line.split())) for line in said.stdout.splitlines()]
    return {line[0]: line for line in words}


def launched(kernel, path, numbers):
    """In a process of its own: the host's part of a launch."""
    signature = SIGNATURES[kernel]
    row = ctypes.create_string_buffer(signature.packed.size)
    signature.packed.pack_into(row, 0, *numbers)
    symbols = subprocess.run(["nm", "-D", path], check=True, capture_output=True, text=True).stdout
    (name,) = re.findall(r"(_mlir_launch__mlir_ciface_\w+)", symbols)
    places = [ctypes.addressof(row) + place for place in signature.places]
    result = ctypes.c_int32(0)
    given = (ctypes.c_void_p * (len(places) + 1))(*places, ctypes.addressof(result))
    getattr(ctypes.CDLL(path), name)(given)
