"""How much memory a run will need, told before it begins.

    needed = what its tensors hold at the worst moment of a rehearsal    (`footprint.rehearsal`)
           + what the allocator keeps idle beside them

in memory that the system cannot take back. Pages of the labels' files come on top of it, which are
mapped; the system drops them when something else needs their place.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from cvrbench import machine
from cvrbench.config.schema import Config
from cvrbench.data.dataset import Dataset
from cvrbench.data.streaming import Placement, rows_bytes
from cvrbench.errors import RunError
from cvrbench.footprint.live import Undrawn
from cvrbench.footprint.rehearsal import SCORE_BYTES, rehearse, state_bytes
from cvrbench.footprint.rows import answers_bytes
from cvrbench.nn import FeatureEncoder
from cvrbench.strategies import build_strategy

LATER = 50_000_000
"""Bytes that a process comes to hold after its start whatever it trains: code, and its tables."""
PROCESS = 200_000_000
"""Bytes that a process holds before it begins."""
SMALL = 0.5
"""Of the free memory: a run whose roughest upper bound is below is not rehearsed."""
MOST_PROBED = 8192
"""Rows of half a probe at most (`training.observe`)."""
WORDS = {
    "parameters": "weights and copies of them",
    "copies": "weights and copies of them",
    "optimiser": "optimiser",
    "data": "data",
    "answers": "data",
    "activations": "a training step",
    "idle": "a training step",
    "evaluation": "an evaluation step",
    "predictions": "predictions",
}
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a run needs beside what its process holds when it begins, in bytes."""

    parts: dict[str, int]
    """By the parts of a rehearsal, at the moment when their sum is largest."""
    pages: int
    """Of prepared files that are mapped, at most; they can be dropped."""

    @property
    def needed(self) -> int:
        """What cannot be dropped."""
        return sum(self.parts.values()) + LATER

    def told(self) -> str:
        """Say what needs most, largest first: `optimiser 9.1, data 3.0`."""
        named: Counter[str] = Counter()
        for part, n_bytes in self.parts.items():
            named[WORDS.get(part, "other")] += n_bytes
        least = 0.05 * max(self.needed, GB)
        shown = [(name, n / GB) for name, n in named.most_common() if n >= least]
        return ", ".join(f"{name} {size:.1f}" for name, size in shown) or "the process itself"


def estimate(config: Config, dataset: Dataset, device: torch.device) -> Footprint | None:
    """Say how much memory a run will need on its device.

    Returns:
        None where it cannot be told, as of a strategy whose sizes depend on numbers.
    """
    try:
        keeping = Placement.choose(config.trainer.data, (dataset.train, dataset.valid), device)
        on_gpu, on_disk = device.type == "cuda", keeping.where == "disk"
        parts = rehearse(config, dataset, on_gpu=on_gpu, on_disk=on_disk)
    except (RuntimeError, NotImplementedError):
        # What torch says of an operation that it cannot pretend; the run itself may well do it.
        return None
    pages = sum(split.labels.nbytes for split in (dataset.train, dataset.valid, dataset.test))
    return Footprint(parts=parts, pages=pages)


def check_memory(config: Config, dataset: Dataset, device: torch.device) -> None:
    """Make sure that a run fits into what is free, where `trainer.check_memory` asks for it.

    Raises:
        RunError: It does not; says what needs most and what to lower.
    """
    free = room(device) if config.trainer.check_memory else None
    if free is None or rough_bound(config, dataset) < SMALL * free.n_bytes:
        return
    found = estimate(config, dataset, device)
    if found is not None and found.needed > free.n_bytes:
        raise RunError(
            f"the run needs about {found.needed / GB:.1f} GB of memory ({found.told()}) and "
            f"{free.n_bytes / GB:.1f} GB are free ({free.limit}); {advice(config, found)}, or set "
            "trainer.check_memory=false to try"
        )


def check_together(
    runs: Sequence[tuple[Config, Dataset]],
    device: torch.device,
    at_once: int,
    what: str = "of these runs",
) -> None:
    """Make sure that the largest runs of a plan fit beside each other into this machine.

    Args:
        runs: Of the plan.
        device: Of all; a GPU is not looked at, since runs may be spread over several.
        at_once: How many there are at any time.
        what: How a message calls them, after their number.

    Raises:
        RunError: They do not; says how many do.
    """
    asked = [run for run in runs if run[0].trainer.check_memory]
    free = machine.room() if device.type == "cpu" and at_once > 1 and asked else None
    if free is None:
        return
    rough = sorted((rough_bound(*run) for run in asked), reverse=True)[:at_once]
    if sum(rough) < SMALL * free.n_bytes:
        return
    # Runs that differ in their seed alone need the same.
    needs = {config.all_but_seed: (config, dataset) for config, dataset in asked}
    told = {key: estimate(*run, device) for key, run in needs.items()}
    found = (told[config.all_but_seed] for config, _ in asked)
    each = sorted((PROCESS + one.needed for one in found if one is not None), reverse=True)
    if (n := most_beside(each, free.n_bytes)) < min(at_once, len(each)):
        raise RunError(
            f"{at_once} {what} at once need up to {sum(each[:at_once]) / GB:.1f} GB of memory and "
            f"{free.n_bytes / GB:.1f} GB are free ({free.limit}); {fewer(n)}, or "
            "trainer.check_memory=false to try"
        )


def most_beside(each: Sequence[int], n_bytes: int) -> int:
    """Say how many processes fit beside each other, if they are the largest of all."""
    largest = accumulate(sorted(each, reverse=True))
    return sum(total <= n_bytes for total in largest)


def fewer(n: int) -> str:
    """Say what to do where only `n` runs fit beside each other."""
    return f"set launcher.workers={n}" if n else "not even one fits: make the largest smaller"


def room(device: torch.device) -> machine.Room | None:
    """Say how much is free on a device; None where the system does not tell."""
    if device.type == "cuda":
        return machine.Room(n_bytes=torch.cuda.mem_get_info(device)[0], limit=str(device))
    return machine.room()


def rough_bound(config: Config, dataset: Dataset) -> int:
    """Give a bound on `needed` that takes no rehearsal, and is several times too high."""
    schema, trainer = dataset.schema, config.trainer
    with torch.device("meta"), Undrawn():
        network = build_strategy(config.model, schema)
    tables = [m.table for m in network.modules() if isinstance(m, FeatureEncoder)]
    known = {id(table) for table in tables}
    dense = [p for p in network.parameters() if id(p) not in known]
    n_tasks, fields = len(schema.tasks), len(schema.id_fields)
    values = sum(len(bag.ids) for bag in dataset.train.bags) / max(1, len(dataset.train))
    units = sum(p.shape[0] * (p.shape[-1] + p.shape[-2]) for p in dense if p.dim() > 1)
    units += len(tables) * n_tasks * (fields + round(values) + 1) * config.model.embedding_dim
    rows = max(trainer.batch_size, trainer.eval_batch_size, MOST_PROBED)
    splits = (dataset.train, dataset.valid, dataset.test)
    rows = min(rows, max(map(len, splits)))
    files = sum(rows_bytes(split) + answers_bytes(split) for split in splits)
    data = 2 * files + (SCORE_BYTES + 64 * n_tasks) * sum(map(len, splits))
    bound: int = LATER + data + 24 * state_bytes(network) + 64 * n_tasks * units * rows
    return bound


def advice(config: Config, found: Footprint) -> str:
    """Name the keys that the largest parts follow, the largest first."""
    keys = {
        "a training step": "trainer.batch_size",
        "an evaluation step": "trainer.eval_batch_size",
        "weights and copies of them": "model.embedding_dim",
        "optimiser": "model.embedding_dim",
    }
    named: Counter[str] = Counter()
    for part, n_bytes in found.parts.items():
        if (key := keys.get(WORDS.get(part, ""))) is not None:
            named[key] += n_bytes
    lower = [key for key, n in named.most_common() if n >= 0.1 * found.needed]
    words = f"lower {' or '.join(lower)}" if lower else "take a smaller dataset"
    if config.trainer.embedding_optimizer != "rowwise_adagrad" and "model.embedding_dim" in lower:
        words += ", take trainer.embedding_optimizer=rowwise_adagrad"
    return words
