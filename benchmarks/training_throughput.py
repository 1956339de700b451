"""Training throughput beside the floor of the hardware and beside peers.

    python -m benchmarks.training_throughput [--steps 12] [--repeats 7] [--threads 2]

Two shapes, 23 categorical fields with Ali-CCP's cardinalities (1.56 M ids, Zipf-skewed), batch
4096, float32, no dropout: embedding 16, experts or trunk 256-128, towers 64 (reference) and 8,
128-64, 32 (small); MMoE has four experts. Ours: `training/ours.py`; the floor, and what counts in
it: `training/floor.py`; peers: `training/peers.py`. All train on the same rows with the same
threads, in processes of their own that take turns. Ratios, not rates, are comparable between
machines.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import torch
from benchmarks.figures import Figure, print_table
from benchmarks.training import floor, ours, peers
from benchmarks.training.shapes import REFERENCE, SMALL, Shape
from benchmarks.turns import Build, Contender, compare, ratio


class Options(NamedTuple):
    """What the command line asked for."""

    steps: int = 12
    repeats: int = 7
    threads: int = 2


FLOOR_AIM, PEER_AIM, VOCABULARY_AIM = 0.85, 5.0, 1.1
VOCABULARIES = (10_000_000, 50_000_000)


def measure(*, quick: bool, options: Options | None = None) -> Iterator[Figure]:
    """Measure every strategy at both shapes, and a step with larger and larger vocabularies."""
    options = options or (Options(steps=3, repeats=2) if quick else Options())
    for shape in (SMALL,) if quick else (REFERENCE, SMALL):
        for strategy in ours.STRATEGIES:
            yield from _strategy(strategy, shape, options)
    yield from _vocabulary(SMALL, VOCABULARIES[:1] if quick else VOCABULARIES, options)


def _strategy(strategy: str, shape: Shape, options: Options) -> Iterator[Figure]:
    ours_, floor_ = "ours", "floor"
    contenders = {
        ours_: _contend(ours.build, strategy, shape, options),
        floor_: _contend(floor.build, strategy, shape, options),
    }
    for peer in peers.installed(strategy):
        contenders[peer] = Contender(
            peers.build, peer, strategy, shape, options.steps,
            n_steps=options.steps, threads=options.threads,
        )  # fmt: skip
    times = compare(contenders, options.repeats)
    step = min(times[ours_])
    detail = f"{step * 1e3:.1f} ms a step, {shape.batch / step:,.0f} examples a second"
    for name in contenders:
        if name == ours_:
            continue
        yield Figure(
            name=f"train/{shape.name}/{strategy}/{name}",
            value=ratio(times[name], times[ours_]),
            unit="of the floor" if name == floor_ else "times as fast",
            at_least=FLOOR_AIM if name == floor_ else PEER_AIM,
            detail=detail if name == floor_ else f"{min(times[name]) * 1e3:.1f} ms a step",
        )


def _vocabulary(shape: Shape, sizes: tuple[int, ...], options: Options) -> Iterator[Figure]:
    """The same ids: only the table grows."""
    for n_ids in sizes:
        grown = shape.grown_to(n_ids)
        contenders = {
            "small": _contend(ours.build, "shared_bottom", shape, options),
            "large": _contend(ours.build, "shared_bottom", grown, options),
        }
        times = compare(contenders, options.repeats)
        yield Figure(
            name=f"train/vocabulary/{n_ids // 1_000_000}M",
            value=ratio(times["large"], times["small"]),
            unit=f"times a step with {sum(shape.sizes) / 1e6:.2f} M ids",
            at_most=VOCABULARY_AIM,
            detail=f"{min(times['large']) * 1e3:.1f} ms a step",
        )


def _contend(build: Build, strategy: str, shape: Shape, options: Options) -> Contender:
    return Contender(
        build, strategy, shape, options.steps, n_steps=options.steps, threads=options.threads
    )


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = Options(**vars(parser.parse_args()))
    print_table(list(measure(quick=False, options=options)))


if __name__ == "__main__":
    main()
