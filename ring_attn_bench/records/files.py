"""Files that are written whole or not at all, and a sentence where one cannot be read or written.

A power cut, a full disk or a second run never leave half a file: what is new is written beside the
old one, brought to the disk, and takes its place in one step.
"""

from __future__ import annotations

import errno
import gzip
import os
import secrets
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ring_attn_bench.errors import FileError, clause

ELSEWHERE = "name another folder with --out"
_WHAT_TO_DO = {
    errno.ENOSPC: f"free some space, or {ELSEWHERE}",
    errno.EDQUOT: f"free some space, or {ELSEWHERE}",
    errno.EFBIG: f"raise the limit on the size of files, or {ELSEWHERE}",
    errno.EISDIR: "it is a folder, and should be a file",
    errno.EEXIST: f"it is a file, and should be a folder; {ELSEWHERE}",
    errno.ENOTDIR: f"a folder on the way to it is a file; {ELSEWHERE}",
    errno.ENAMETOOLONG: f"{ELSEWHERE}, with a shorter name",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes a FileError of an OSError: which file, why, and what to do."""
    try:
        yield
    except OSError as error:
        what_to_do = _WHAT_TO_DO.get(error.errno or 0, f"{ELSEWHERE}, where you may write")
        raise FileError(f"cannot write {path}: {_why(error)}; {what_to_do}.") from None


def write(path: Path, content: str | bytes) -> None:
    """Makes the file hold this, and the folder if there is none; raises FileError.

    Whatever happens, the file is the old one or the new one.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path):
        target = Path(os.path.realpath(path))  # a link stays a link
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a device, whose place no file must take; or an error
            return
        _replace(target, data)


def _replace(target: Path, data: bytes) -> None:
    # short, so that it fits wherever the file's own name does; of its own, so that two may write
    beside = target.with_name(f".{secrets.token_hex(4)}.partial")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    _settle(target.parent)


def _settle(folder: Path) -> None:
    """Brings the names in the folder to the disk too, where its file system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def append(path: Path, line: str) -> None:
    """Adds a line and waits until it is on disk; raises FileError, and then adds nothing.

    It begins a line of its own, also behind half a line that a crash has left.
    """
    with writing(path), path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        data = line.encode() + b"\n"
        if end and file.seekable():
            file.seek(-1, os.SEEK_END)
            data = data if file.read(1) == b"\n" else b"\n" + data
        try:
            rest = memoryview(data)
            while rest:  # in one piece, unless the disk fills up
                rest = rest[file.write(rest) or 0 :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise


def read_bytes(path: Path) -> bytes:
    """What the file holds, unpacked if it ends in .gz; raises FileError."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileError(
            f"cannot read {path}: it is damaged or ends too early ({error}); copy it again from "
            "where it is whole."
        ) from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {_why(error)}.") from None


def decoded(data: bytes, where: str) -> str:
    """The text; raises FileError. where: the file, and the line if this is one."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = f", line {data[: error.start].count(10) + 1}" if b"\n" in data else ""
        raise FileError(
            f"{where}{line}: not UTF-8 (byte {data[error.start]:#04x}); it was written by another "
            "program, or is damaged."
        ) from None


def make_folder(path: Path) -> Path:
    """Sees to the folder, and that it can be written to, before anything is measured for it."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(4096))
    return path


def new_folder(root: Path, name: str) -> Path:
    """root/name, or root/name_2 and so on: the first that is nobody's; raises FileError."""
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    folder, number = root / name, 2
    while True:
        with writing(folder):
            try:
                folder.mkdir()  # no `exists` before: two runs that ask at once would share it
            except FileExistsError:
                folder, number = root / f"{name}_{number}", number + 1
                continue
        return make_folder(folder)


def in_unicode(text: str) -> str:
    r"""The text with what no file can hold, as the bytes of some names are, spelled \udce9."""
    return text.encode(errors="backslashreplace").decode()


def _why(error: OSError) -> str:
    return clause(error.strerror or error) or type(error).__name__
