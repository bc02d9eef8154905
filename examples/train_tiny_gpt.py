"""Trains a small GPT through the ring and on one device, and holds the loss curves together.

    torchrun --nproc-per-node=2 examples/train_tiny_gpt.py [--backend NAME ...] [--out DIR]

Text is made on the spot, dealt zigzag to the ranks; every backend trains the same model from the
same weights, once through the ring of all ranks, and once more by plain PyTorch in the same
precision and in float64 on one device. At every step a curve may be no farther from float64 than
three times as far as plain PyTorch has been, and neither may the gradients of any parameter at the
first step. Exits with 1 if one is. `--one-device NAME` has a backend train on one device beside
them. With several `--seeds`, training must not tell the backends apart either: at every step the
means over the seeds of two lie no farther apart than the seeds of either do around that step.
`--save FILE` keeps model and optimizer of the first backend at the end, and `--resume FILE` goes on
from there on any number of ranks. Float32 on CPUs over gloo, bfloat16 on GPUs over NCCL.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_gpt.curves import (
    FLOOR,
    TIMES_PLAIN,
    Curve,
    bounds,
    draw,
    first_beyond,
    first_outside,
    spread,
    write_csv,
)
from tiny_gpt.training import PLAIN, TRUTH, Run, Task, Way


def main() -> int:
    options = arguments()
    device = started()
    ways = [Way.by_backend(name, dist.get_world_size()) for name in options.backend]
    ways += [Way.by_backend(name, 1) for name in options.one_device]
    curves: list[Curve] = []
    is_right = True
    for seed in range(options.seeds):
        task = Task(device, options.tokens, options.batch, seed, options.head_dim)
        is_right &= compare_gradients(task, ways)
        trained = {
            way.name: train(task, way, options, keeps=way is ways[0])
            for way in (TRUTH, PLAIN, *ways)
        }
        curves += trained.values()
        is_right &= compare_curves(task, trained, ways)
    if options.seeds > 1:
        is_right &= compare_spreads(curves, ways)
    if options.out and dist.get_rank() == 0:
        options.out.mkdir(parents=True, exist_ok=True)
        write_csv(options.out / "losses.csv", curves)
        by_name = {curve.name: curve for curve in curves if curve.seed == 0}
        allowed = bounds(by_name[PLAIN.name], by_name[TRUTH.name], name_of(task.low))
        draw(options.out / "losses.png", curves, allowed)
    dist.destroy_process_group()
    return 0 if is_right else 1


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", nargs="*", default=["auto"], help="through the ring")
    parser.add_argument("--one-device", nargs="*", default=[], help="without it")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=128, help="of the whole sequence")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for losses.csv and losses.png")
    parser.add_argument("--save", type=Path, help="where to keep the first backend's model")
    parser.add_argument("--resume", type=Path, help="a kept model to go on from")
    asked = parser.parse_args()
    for name in ("steps", "tokens", "batch", "seeds"):
        if getattr(asked, name) < 1:
            parser.error(f"--{name} is {getattr(asked, name)}; it must be at least 1.")
    if asked.head_dim < 2 or asked.head_dim % 2:
        parser.error(f"--head-dim is {asked.head_dim}; rotary embeddings need an even one, from 2.")
    if not asked.backend + asked.one_device:
        parser.error("no backend is named; name one behind --backend or --one-device.")
    if asked.resume and not asked.resume.is_file():
        parser.error(f"--resume is {asked.resume}, which is no file.")
    return asked


def started() -> torch.device:
    """This rank's device, with a process group over all of them."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    return device


def train(task: Task, way: Way, options: argparse.Namespace, *, keeps: bool) -> Curve:
    """The loss of each step, from a kept model on if there is one; may keep its own."""
    run = Run(task, way)
    if options.resume:
        run.load(options.resume)
    curve = Curve(way.name, task.seed, tuple(run.losses(run.step + options.steps)))
    if options.save and keeps and dist.get_rank() == 0:
        run.save(options.save)
    return curve


def compare_gradients(task: Task, ways: Iterable[Way]) -> bool:
    """Whether no parameter's first gradient is farther from float64 than it may be."""

    def gradients(way: Way) -> dict[str, torch.Tensor]:
        run = Run(task, way)
        run.gradients()
        return {name: x.grad.double() for name, x in run.model.named_parameters()}

    def distance(x: dict[str, torch.Tensor], name: str) -> float:
        return (x[name] - right[name]).norm().item()

    right, plain = gradients(TRUTH), gradients(PLAIN)
    is_right = True
    for way in ways:
        found = gradients(way)
        ratios = {name: distance(found, name) / distance(plain, name) for name in right}
        worst = max(ratios, key=lambda name: ratios[name])
        is_within = ratios[worst] <= TIMES_PLAIN
        is_right &= is_within
        say(
            f"{way.name}, seed {task.seed}: gradients of {len(right)} parameters "
            f"{'within' if is_within else 'NOT WITHIN'} {TIMES_PLAIN:g} x plain PyTorch's error, "
            f"farthest {worst} at {ratios[worst]:.2f} x"
        )
    return is_right


def compare_curves(task: Task, trained: dict[str, Curve], ways: Iterable[Way]) -> bool:
    """Whether every curve is at every step as near to float64 as it has to be."""
    truth, plain = trained[TRUTH.name], trained[PLAIN.name]
    allowed = bounds(plain, truth, name_of(task.low))
    is_right = True
    for way in ways:
        curve = trained[way.name]
        beyond = first_beyond(curve, truth, allowed)
        is_right &= beyond is None
        verdict = "agrees at every step" if beyond is None else f"DOES NOT AGREE at step {beyond}"
        far, of_plain = max(curve.distances(truth)), max(plain.distances(truth))
        say(
            f"{way.name}, seed {task.seed}: {verdict}; loss {curve.losses[0]:.4f} to "
            f"{curve.losses[-1]:.4f}, at most {far:.1e} from float64 (plain PyTorch: "
            f"{of_plain:.1e}; floor {FLOOR[name_of(task.low)]:.0e})"
        )
    return is_right


def compare_spreads(curves: list[Curve], ways: Iterable[Way]) -> bool:
    """Whether backends lie no farther apart than seeds of each of them do, at every step."""
    of_ways = {way.name: [x for x in curves if x.name == way.name] for way in ways}
    is_right = True
    for (name, ours), (other, theirs) in permutations(of_ways.items(), 2):
        step = first_outside(ours, theirs)
        is_right &= step is None
        verdict = "within" if step is None else f"at step {step} OUTSIDE"
        say(f"{name}: the mean of {len(ours)} seeds is {verdict} the spread of {other}")
    for name, seeds in of_ways.items():
        say(f"{name}: last losses of {len(seeds)} seeds lie {spread(seeds):.4f} apart")
    return is_right


def name_of(dtype: torch.dtype) -> str:
    """As in `FLOOR`."""
    return str(dtype).removeprefix("torch.")


def say(line: str) -> None:
    """Prints it once."""
    if dist.get_rank() == 0:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
