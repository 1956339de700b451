"""Kill a run and a sweep at random moments, go on by the same command, and compare with no kill.

    python -m benchmarks.kill_anywhere --kills 100 --seed 0
    python -m benchmarks.kill_anywhere --kills 0 --writes

SIGKILL is sent at a random moment of every phase in turn; every fourth run is killed once more
while it goes on. `--writes` kills a run right before each single change of a file instead. What is
compared is every byte of the prepared data, of weights, masks, predictions and history, the record
and the study without times, and the list of files: none may be missing or left behind. The table
says what came out by the phase in which the kill landed; the exit code is 1 after any difference.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Figure
from rich.console import Console
from rich.table import Table
from tests.resilience.harness import PHASES, RUN, SWEEP, SWEEP_PHASES, Harness, Kill

SWEEP_SHARE = 0.2
"""Of the kills; a sweep takes four times as long as a run."""


@dataclass
class Tally:
    """Kills by the phase that they landed in."""

    kills: list[Kill] = field(default_factory=list)

    def add(self, kill: Kill) -> None:
        self.kills.append(kill)
        if kill.problems:
            print(
                f"{kill.wanted}, landed in {kill.landed}:", *kill.problems, sep="\n  ", flush=True
            )

    @property
    def landed(self) -> list[Kill]:
        return [kill for kill in self.kills if kill.landed != "done"]

    @property
    def bad(self) -> list[Kill]:
        return [kill for kill in self.kills if kill.problems]

    def print(self) -> None:
        table = Table("phase", "kills", "same bits", "different")
        order = {phase: number for number, phase in enumerate(("start", *PHASES, *SWEEP_PHASES))}
        for phase in sorted({k.landed for k in self.landed}, key=lambda p: order.get(p, -1)):
            of_phase = [kill for kill in self.landed if kill.landed == phase]
            bad = sum(bool(kill.problems) for kill in of_phase)
            table.add_row(phase, f"{len(of_phase)}", f"{len(of_phase) - bad}", f"{bad}")
        n, n_bad = len(self.landed), len([k for k in self.landed if k.problems])
        table.add_section()
        table.add_row("all", f"{n}", f"{n - n_bad}", f"{n_bad}")
        Console(width=100).print(table)


def kill(arguments: Sequence[str], phases: Sequence[str], n: int, dice: random.Random) -> Tally:
    """Kill a command `n` times, its phases in turn; those do not count that it outran."""
    tally = Tally()
    if n == 0:
        return tally
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder), arguments)
        for number in range(4 * n):
            if len(tally.landed) >= n:
                break
            twice = number % 4 == 3 and arguments[0] == "run"
            tally.add(harness.kill_in(phases[number % len(phases)], dice, twice=twice))
    return tally


def kill_at_writes(every: int = 1) -> Tally:
    """Kill a run right before each change of a file, or before every so-manieth."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder), RUN)
        for number in range(0, harness.n_writes, every):
            tally.add(harness.kill_at_write(number))
    return tally


def measure(*, quick: bool) -> Iterator[Figure]:
    """Say how many kills changed what came out."""
    n = 4 if quick else 40
    tally = kill(RUN, PHASES, n, random.Random(0))
    yield Figure(
        name="kill_anywhere/differences",
        value=len(tally.bad),
        unit="runs",
        at_most=0,
        detail=f"{len(tally.landed)} kills in {len({k.landed for k in tally.landed})} phases",
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writes", action="store_true", help="kill before every change of a file")
    options = parser.parse_args()
    begun, dice, tally = time.monotonic(), random.Random(options.seed), Tally()
    of_sweeps = round(SWEEP_SHARE * options.kills)
    for arguments, phases, n in (
        (RUN, PHASES, options.kills - of_sweeps),
        (SWEEP, SWEEP_PHASES, of_sweeps),
    ):
        tally.kills += kill(arguments, phases, n, dice).kills
    if options.writes:
        tally.kills += kill_at_writes().kills
    tally.print()
    print(f"{time.monotonic() - begun:.0f} s")
    return 1 if tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())
