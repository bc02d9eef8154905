"""The longest sequence of each backend, and what happens beyond, from processes that die of it."""

import json

ENDS = {"little_memory": "oom", "dies_if_long": "error"}


def test_each_way_of_failing_is_told_apart_and_what_is_known_is_not_asked_again(program):
    suite = program.suite(*ENDS)
    words = (
        "longest", "--suite", str(suite), "--ranks", "1", "--set", "directions=forward",
        "--least", "16", "--most", "64", "--out", str(program.out), "--json",
    )  # fmt: skip
    done = program.run(*words)
    assert done.returncode == 1, done.stderr  # to die is a failure
    found = json.loads(done.stdout)
    limits = {x["contestant"]["backend"]: x for x in found["limits"]}
    assert {name: x["status"] for name, x in limits.items()} == ENDS
    assert {(x["longest"], x["failed_at"]) for x in limits.values()} == {(48, 64)}
    assert found["failures"] == 1
    assert "SIGKILL" in limits["dies_if_long"]["reason"].upper().replace("SIGNAL 9", "SIGKILL")
    sheet = (program.out / "limits.csv").read_text().splitlines()
    assert len(sheet) == 1 + len(ENDS)
    assert list(program.temporary.iterdir()) == []

    again = program.run(*words, "--resume")
    assert again.returncode == 1
    assert json.loads(again.stdout) == found
