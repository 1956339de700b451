"""All benchmarks in one table: ratios, distance to the floor, and the machine they were taken on.

    python -m benchmarks.suite [NAME ...] [--quick] [--out FILE.json] [--against FILE.json]

`--out` keeps the figures; `--against` shows beside each what an earlier file has, and ends with
exit code 1 where a figure became worse by more than a tenth or no longer meets its aim. Only
ratios are compared: times of two days or machines are not.
"""

import argparse
import importlib
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from benchmarks.figures import Figure, print_table
from rich.console import Console
from rich.table import Table

MODULES = {
    "training": "training_throughput",
    "seeds": "many_seeds",
    "evaluation": "evaluation_speed",
    "start": "start_up",
    "data": "larger_than_memory",
    "checkpoints": "checkpoint_cost",
    "memory": "memory_estimate",
}
WORSE = 0.1
"""By which share a figure may be worse than before: two runs of the suite differ by that much."""


def measure(names: Sequence[str], *, quick: bool) -> Iterator[Figure]:
    """Measure the named benchmarks, each after the other."""
    console = Console(stderr=True)
    for name in names:
        console.print(f"{name} ...")
        yield from importlib.import_module(f"benchmarks.{MODULES[name]}").measure(quick=quick)


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = next((line.split()[1] for line in _lines(Path("/proc/meminfo"))), "0")
    return {
        "cpu": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(int(memory) / 1e6, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def is_worse(now: Figure, before: float) -> bool:
    """Whether a figure moved away from its aim by more than noise does."""
    if now.at_least is not None:
        return now.value < before * (1 - WORSE)
    return now.at_most is not None and now.value > before * (1 + WORSE)


def print_change(figures: Sequence[Figure], earlier: dict[str, Any]) -> bool:
    """Print what changed since an earlier file; say whether anything became worse."""
    before = {f["name"]: f["value"] for f in earlier["figures"]}
    table = Table("figure", "before", "now", "now / before", "")
    bad = False
    for figure in figures:
        if (old := before.get(figure.name)) is None:
            table.add_row(figure.name, "", f"{figure.value:,.3g}", "", "new")
            continue
        worse = is_worse(figure, old)
        bad |= worse
        ratio = f"{figure.value / old:.2f}" if old else ""
        row = (f"{old:,.3g}", f"{figure.value:,.3g}", ratio, "worse" if worse else "")
        table.add_row(figure.name, *row)
    for name in before.keys() - {figure.name for figure in figures}:
        table.add_row(name, f"{before[name]:,.3g}", "", "", "not measured")
    console = Console(width=140)
    if earlier["machine"]["cpu"] != describe_machine()["cpu"]:
        console.print(f"the earlier file is of another machine: {earlier['machine']['cpu']}")
    console.print(table)
    return bad


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []


def main() -> int:
    """Measure, print, keep, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODULES))
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--out", type=Path, help="a JSON file to keep the figures in")
    parser.add_argument("--against", type=Path, help="an earlier such file")
    given = parser.parse_args()
    if unknown := set(given.names) - MODULES.keys():
        parser.error(f"there is no benchmark {sorted(unknown)[0]!r}: {', '.join(MODULES)}")
    earlier = json.loads(given.against.read_text()) if given.against else None
    figures = list(measure(given.names or list(MODULES), quick=given.quick))
    machine = describe_machine()
    Console(width=140).print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print_table(figures)
    if given.out:
        kept = {"machine": machine, "quick": given.quick, "figures": [asdict(f) for f in figures]}
        given.out.write_text(json.dumps(kept, indent=1) + "\n")
    return 1 if earlier is not None and print_change(figures, earlier) else 0


if __name__ == "__main__":
    sys.exit(main())
