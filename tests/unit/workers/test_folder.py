"""A folder that is put away does not come back."""

import itertools
import threading
from contextlib import suppress

from ring_attn_bench.workers.folder import put_away


def test_a_folder_goes_although_somebody_writes_into_it_all_the_while(tmp_path):
    for number in range(200):
        folder = tmp_path / f"rab-{number}"
        folder.mkdir()
        begun, over = threading.Event(), threading.Event()

        def write(folder=folder, begun=begun, over=over):
            for name in itertools.takewhile(lambda _: not over.is_set(), itertools.count()):
                with suppress(OSError):  # as of a process that starts too late
                    (folder / f"{name}.pid").touch()
                begun.set()

        writer = threading.Thread(target=write)
        writer.start()
        begun.wait()

        put_away(folder)

        over.set()
        writer.join()
        assert list(tmp_path.iterdir()) == []


def test_several_put_the_same_folder_away_at_once(tmp_path):
    for number in range(50):
        folder = tmp_path / f"rab-{number}"
        (folder / "logs" / "0").mkdir(parents=True)
        for name in range(20):
            (folder / f"{name}.pid").touch()
        together = threading.Barrier(3)

        def end(folder=folder, together=together):
            together.wait()
            put_away(folder)

        ending = [threading.Thread(target=end) for _ in range(3)]
        for one in ending:
            one.start()
        for one in ending:
            one.join()
        assert list(tmp_path.iterdir()) == []
