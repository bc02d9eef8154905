"""A small GPT trained through the ring: its loss curves, and what would be noticed of them."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.patience import limit

CHECKOUT = Path(__file__).parents[2]
SMALL = ["--tokens", "32", "--batch", "2"]


@pytest.fixture
def tiny(monkeypatch):
    """The folder beside the example, as a package."""
    monkeypatch.syspath_prepend(CHECKOUT / "examples")
    import tiny_gpt.curves
    import tiny_gpt.training

    return tiny_gpt


def trained(world_size, *options):
    """What the example prints, where it ends well."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={world_size}", "examples/train_tiny_gpt.py", *SMALL, *map(str, options),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=limit(120))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def losses(folder, curve):
    with (folder / "losses.csv").open(encoding="utf-8") as file:
        return [float(line["loss"]) for line in csv.DictReader(file) if line["curve"] == curve]


def test_curves_agree_and_go_on_alike_from_a_checkpoint_on_another_number_of_ranks(tmp_path):
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    kept = tmp_path / "model.pt"

    said = trained(2, "--backend", "reference", "aten", "--steps", 8, "--out", whole)
    trained(2, "--backend", "reference", "--steps", 4, "--out", first, "--save", kept)
    trained(1, "--backend", "reference", "--steps", 4, "--out", second, "--resume", kept)

    assert said.count("gradients of 16 parameters within 3 x") == 2
    assert said.count("agrees at every step") == 2
    assert (whole / "losses.png").stat().st_size > 10_000
    in_one_go = losses(whole, "reference on 2")
    in_two = losses(first, "reference on 2") + losses(second, "reference on 1")
    assert len(in_two) == 8
    assert in_two == pytest.approx(in_one_go, abs=2e-6)


def test_backends_train_alike_over_seeds_and_are_drawn_with_their_range(tmp_path):
    said = trained(
        1, "--backend", "reference", "--one-device", "aten", "--steps", 3, "--seeds", 2,
        "--head-dim", 16, "--out", tmp_path,
    )  # fmt: skip

    assert "reference on 1: the mean of 2 seeds is within the spread of aten on 1" in said
    assert "aten on 1: the mean of 2 seeds is within the spread of reference on 1" in said
    assert len(losses(tmp_path, "aten on 1")) == 2 * 3
    assert (tmp_path / "losses.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--steps 0", "--steps is 0; it must be at least 1."),
        ("--head-dim 7", "--head-dim is 7; rotary embeddings need an even one, from 2."),
        ("--backend", "no backend is named; name one behind --backend or --one-device."),
        ("--resume nowhere.pt", "--resume is nowhere.pt, which is no file."),
    ],
)
def test_what_nobody_can_train_by_is_a_sentence(options, sentence):
    command = [sys.executable, "examples/train_tiny_gpt.py", *options.split()]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=limit(60))
    assert done.returncode == 2
    assert done.stderr.endswith(f"error: {sentence}\n")


def test_attention_that_sees_one_token_too_few_is_not_within_the_bounds(tiny):
    task = tiny.training.Task(torch.device("cpu"), 32, 2, 0)

    def too_few(q, k, v):
        """Its own key counts as the one before."""
        k, v = (torch.cat([x[:, :1], x[:, :-1]], dim=1) for x in (k, v))
        return tiny.training.plain_attention(q, k, v)

    truth, plain, wrong = (
        tiny.curves.Curve(way.name, 0, tuple(tiny.training.Run(task, way).losses(3)))
        for way in (
            tiny.training.TRUTH, tiny.training.PLAIN, tiny.training.Way("wrong", too_few)
        )
    )  # fmt: skip

    allowed = tiny.curves.bounds(plain, truth, "float32")
    assert tiny.curves.first_beyond(plain, truth, allowed) is None
    assert tiny.curves.first_beyond(wrong, truth, allowed) == 0


def test_a_loss_that_is_no_number_is_beyond_every_bound(tiny):
    truth = tiny.curves.Curve("float64", 0, (3.0, 2.0))
    lost = tiny.curves.Curve("lost", 0, (3.0, math.nan))

    assert tiny.curves.first_beyond(lost, truth, [9.0, 9.0]) == 1


def curves(tiny, name, *seeds):
    return [tiny.curves.Curve(name, seed, losses) for seed, losses in enumerate(seeds)]


def test_means_that_lie_farther_apart_than_seeds_do_around_a_step_are_told_apart(tiny):
    theirs = curves(tiny, "theirs", (3.0, 2.0), (3.2, 2.0))
    near = curves(tiny, "near", (3.1, 2.1), (3.0, 2.2))
    worse = curves(tiny, "worse", (3.0, 2.2), (3.2, 2.3))

    assert tiny.curves.first_outside(theirs, theirs) is None
    assert tiny.curves.first_outside(near, theirs) is None, "seeds are alike by chance at step 1"
    assert tiny.curves.first_outside(worse, theirs) == 1


def test_seeds_far_from_a_step_say_nothing_of_it(tiny):
    steps = 3 * tiny.curves.NEAR
    theirs = curves(tiny, "theirs", (3.0,) + (2.0,) * steps, (3.5,) + (2.0,) * steps)
    worse = curves(tiny, "worse", (3.0,) + (2.1,) * steps, (3.5,) + (2.1,) * steps)

    assert tiny.curves.first_outside(worse, theirs) == tiny.curves.NEAR + 1


def test_a_way_that_gets_lost_in_one_seed_is_told_apart(tiny):
    theirs = curves(tiny, "theirs", (3.0, 2.0), (3.2, 2.4))
    lost = curves(tiny, "lost", (3.0, 2.0), (3.2, math.nan))

    assert tiny.curves.first_outside(lost, theirs) == 1
    assert tiny.curves.first_outside(theirs, lost) == 1


STEPPED = """
import gc, sys, weakref
sys.path.insert(0, "examples")
import torch
import torch.distributed as dist
from tiny_gpt.training import Run, Task, Way

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
group = weakref.ref(dist.group.WORLD)
list(Run(Task(torch.device("cpu"), 32, 2, 0), Way.by_backend("reference", 1)).losses(1))
dist.destroy_process_group()
gc.collect()
print(group() is None)
"""


def test_nothing_of_a_training_run_keeps_its_group(tmp_path):
    """A group that is freed after everything else may take its process along."""
    command = [sys.executable, "-c", STEPPED, str(tmp_path / "store")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=limit(60), cwd=CHECKOUT, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
