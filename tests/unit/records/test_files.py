"""A file is the old one or the new one, and a sentence says why it could not be read or written."""

import gzip
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ring_attn_bench.errors import FileError
from ring_attn_bench.records import files, sheets
from ring_attn_bench.records.folder import run_folder


@contextmanager
def disk_of(size):
    """No file may grow beyond that many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_does_not_fit_on_the_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "report.md"
    files.write(path, "old")

    with (
        disk_of(4096),
        pytest.raises(FileError, match=r"report\.md: File too large"),
    ):
        files.write(path, "new" * 4096)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_that_does_not_fit_on_the_disk_is_not_added_in_part(tmp_path):
    path = tmp_path / "records.jsonl"
    files.append(path, "first")

    with disk_of(4096), pytest.raises(FileError, match="File too large"):
        files.append(path, "second" * 4096)

    assert path.read_text() == "first\n"


def test_a_line_is_a_line_of_its_own_behind_half_a_line(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("whole\nhal")

    files.append(path, "next")
    files.append(path, "last")

    assert path.read_text() == "whole\nhal\nnext\nlast\n"


def test_a_full_device_is_told_of_and_stays_a_device(tmp_path):
    path = tmp_path / "results.csv"
    path.symlink_to("/dev/full")

    with pytest.raises(FileError, match=r"No space left on device; free some space"):
        files.write(path, "x")
    with pytest.raises(FileError, match=r"No space left on device; free some space"):
        files.append(path, "x")

    assert Path("/dev/full").is_char_device()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")

    files.write(tmp_path / "link", "x")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("below", [".", "folder", "folder/folder"])
def test_a_file_where_a_folder_should_be_is_a_sentence(tmp_path, below):
    (tmp_path / "file").touch()

    with pytest.raises(FileError, match=r"cannot write .*file.*--out"):
        files.make_folder(tmp_path / "file" / below)
    with pytest.raises(FileError, match=r"cannot write .*file.*--out"):
        files.write(tmp_path / "file" / below / "report.md", "x")


def test_a_folder_that_cannot_be_written_to_is_a_sentence_before_anything_is_measured():
    with pytest.raises(FileError, match="cannot write /proc/self"):
        files.make_folder(Path("/proc/self"))


def test_runs_that_start_together_get_a_folder_each(tmp_path):
    def start(_):
        return run_folder(tmp_path, "cpu", {"gpu": None})

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(start, range(16)))

    assert len({*folders}) == 16
    assert {folder.parent for folder in folders} == {tmp_path}
    assert all(folder.is_dir() for folder in folders)


def test_the_name_of_a_gpu_makes_no_folders(tmp_path):
    folder = run_folder(tmp_path, "cpu", {"gpu": "NVIDIA RTX/6000", "gpu_count": 1})

    assert folder.parent == tmp_path


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_gz_that_was_cut_off_is_told_of_by_name(tmp_path, keep):
    path = tmp_path / "records.jsonl.gz"
    whole = gzip.compress(bytes(range(256)) * 9)
    path.write_bytes(whole[: max(5, int(len(whole) * keep))])

    with pytest.raises(FileError, match=r"cannot read .*records\.jsonl\.gz.*ends too early"):
        files.read_bytes(path)


@pytest.mark.parametrize("data", [b"no gzip", gzip.compress(b"x" * 99)[:-8] + bytes(8)])
def test_a_gz_that_is_damaged_is_told_of_by_name(tmp_path, data):
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(data)

    with pytest.raises(FileError, match=r"cannot read .*records\.jsonl\.gz: it is damaged"):
        files.read_bytes(path)


FORMULAS = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\uff1d1", "'=1", "''=1"]
PLAIN = ["", "'", "'quoted'", "''", "a=1", "x\u2028y", "it's", "1,5", "a\r\nb"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula_and_all_read_back(tmp_path, text):
    files.write(tmp_path / "x.csv", sheets.text(("a", "b"), [(text, "b")]))

    assert sheets.guarded(text) == f"'{text}"
    assert [cells for _, cells in sheets.read(tmp_path / "x.csv")] == [{"a": text, "b": "b"}]


@pytest.mark.parametrize("text", PLAIN)
def test_other_cells_are_what_they_were(tmp_path, text):
    files.write(tmp_path / "x.csv", sheets.text(("a", "b"), [(text, "b")]))

    assert sheets.guarded(text) == text
    assert [cells for _, cells in sheets.read(tmp_path / "x.csv")] == [{"a": text, "b": "b"}]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a,b\n1,2\n3\n", "line 3: cut off, or of another table: the head has 2 columns"),
        (b"a,b\n1,2,3\n", "line 2: cut off, or of another table"),
        (b'a,b\n1,"2', "line 2: no CSV"),
        (b"a,b\n1,2\n\xe9,1\n", "line 3: not UTF-8"),
    ],
)
def test_a_table_that_is_damaged_is_told_of_with_its_line(tmp_path, content, sentence):
    path = tmp_path / "x.csv"
    path.write_bytes(content)

    with pytest.raises(FileError, match=sentence):
        list(sheets.read(path))
