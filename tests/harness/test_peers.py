"""Other people's rings as contestants: the same records, the same oracle, isolated too."""

import json

import pytest

from tests.harness.conftest import Finished, Program

PLANTED = ("right", "wrong", "raises", "without_lse", "unimportable")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """`bench` over all that is planted, one that refuses the mask, and a backend."""
    program = Program(tmp_path_factory.mktemp("peers"))
    names = [f"peer:planted[{kind}]" for kind in PLANTED]
    suite = program.suite(*names, "peer:torch_cp[math]", "reference")
    return Finished(program, "bench", "--suite", str(suite))


def test_peers_that_are_right_wrong_and_broken_show_as_that_and_harm_nobody(judged):
    assert judged.done.returncode == 1, judged.done.stderr
    records = judged.records
    forward = {name: record for (name, way), record in records.items() if way == "forward"}
    status = {name.removeprefix("peer:"): record.status.value for name, record in forward.items()}
    assert status == {
        "planted[right]": "ok",
        "planted[wrong]": "wrong",
        "planted[raises]": "error",
        "planted[without_lse]": "ok",
        "planted[unimportable]": "unsupported",
        "torch_cp[math]": "unsupported",
        "reference": "ok",
    }
    assert "had enough" in forward["peer:planted[raises]"].reason
    assert "causal masks" in forward["peer:torch_cp[math]"].reason
    right, wrong = forward["peer:planted[right]"], forward["peer:planted[wrong]"]
    assert right.contestant.name == "peer:planted[right]/zigzag/own"
    assert right.backend_version == "right 1.0"
    assert len(right.speed.samples.ring) == 3
    assert right.speed.samples.twin == []
    assert len(right.speed.samples.one_gpu) == 3  # the reference's, which is its kernel
    assert right.speed.executed_flops is None
    assert wrong.speed is None
    assert "out (" in wrong.reason
    without_lse = forward["peer:planted[without_lse]"]
    assert set(without_lse.accuracy.tensors) == {"out"}
    assert without_lse.speed.samples.one_gpu == []
    assert records["peer:planted[right]", "backward"].status.value == "ok"
    report = (judged.out / "report.md").read_text()
    assert "peer:planted[wrong]" in report
    assert "not given" in report


def test_the_command_of_a_peers_record_measures_that_peer_again(judged):
    program, record = judged.program, judged.records["peer:planted[right]", "forward"]

    again = program.run(*record.command.split()[1:-1], record.contestant.name,
                        "--out", str(program.folder / "again"))  # fmt: skip

    assert again.returncode == 0, again.stderr
    lines = (program.folder / "again" / "records.jsonl").read_text().splitlines()
    assert {json.loads(line)["contestant"]["backend"] for line in lines} == {"peer:planted[right]"}


def test_a_peer_that_nobody_knows_is_refused_with_the_nearest_name(program):
    suite = program.suite("peer:plnted[right]")

    done = program.run("bench", "--suite", str(suite), "--out", str(program.out))

    assert done.returncode == 2
    assert "unknown peer 'peer:plnted[right]'. Did you mean 'peer:planted[right]'?" in done.stderr


def test_list_shows_peers_and_why_one_cannot_run(listing):
    assert listing.returncode == 0
    for name in ("peer:planted[right]", "peer:torch_cp[flash,alltoall]"):
        assert name in listing.stdout
    assert "planted_peers_that_are_not_there" in listing.stdout


def test_torchs_context_parallel_without_a_mask_is_right_on_a_cpu(refusing):
    assert refusing.done.returncode == 0, refusing.done.stdout + refusing.done.stderr
    record = refusing.records["peer:torch_cp[math]", "backward"]
    assert record.status.value == "ok"
    assert len(record.speed.samples.ring) == 3
