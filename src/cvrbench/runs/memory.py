"""How much memory a run needs, from the sizes of its network, its data and its batches.

    needed = max over its phases of   weights and copies of them + optimiser + data
                                    + max(a training step, an evaluation step) + predictions

The phases are training, which includes a mask search, and the test. Everything is arithmetic but
what a step holds per number that it computes, which `benchmarks/memory_estimate.py` measures. The
sum is within 1.5 times of the measured peak; so a run is warned about from 1.0 and refused from 1.5
times of what is free.

Pages of mapped files are not counted, since the system drops them when something else needs room.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cvrbench.config.compose import Composed
from cvrbench.config.ncs import (
    GradientConflictSearch,
    LearnedSearch,
    Magnitude,
    NCSConfig,
    Ranked,
    Regrowing,
)
from cvrbench.config.runtime import LauncherConfig, LocalConfig, ProcessesConfig, SubmititConfig
from cvrbench.config.schema import Config, TrainerConfig
from cvrbench.data.dataset import Dataset, Split, open_dataset
from cvrbench.data.registry import prepared_folder
from cvrbench.data.sampler import BLOCK_BYTES, WINDOW_BLOCKS
from cvrbench.data.streaming import SEQUENTIAL_BLOCKS, Placement, rows_bytes
from cvrbench.errors import RunError
from cvrbench.nn import FeatureEncoder
from cvrbench.strategies import build_network
from cvrbench.system import machine
from cvrbench.system.machine import AvailableMemory
from cvrbench.training.device import resolve_device

REFUSED = 1.5
"""Need per free memory from which a run is refused; from 1 it is warned about."""
PROCESS = 200_000_000
"""Bytes that a process holds before it begins a run."""
LATER = 50_000_000
"""Bytes that a process comes to hold after its start whatever it trains: code, and its tables."""
STEP_INPUT, STEP_OUTPUT = 3.0, 6.0
"""Numbers that a training step holds per number that is looked up, and per output of a layer: the
output before and after dropout, their gradients, and what the C library keeps idle. Measured."""
EVALUATION_INPUT, EVALUATION_OUTPUT = 2.0, 1.2
"""The same of an evaluation step, which keeps no layer for longer than the next one needs it."""
PER_ID = 60
"""Bytes of an id in a batch: row number, weight, segment, and its place in the sort of ids."""
MOST_PROBED = 8192
"""Rows of half a probe of the tasks' gradients at most (`training.diagnostics`)."""
SCORING = 36
"""Bytes per row of what the metrics of one space need at once; with them, two columns per task."""
GB = 1e9
KEYS = {
    "weights and copies of them": "model.embedding_dim",
    "optimiser": "model.embedding_dim",
    "a training step": "trainer.batch_size",
    "an evaluation step": "trainer.eval_batch_size",
}
"""Part of an estimate -> key that it follows."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """What a run needs beside what its process holds when it begins, in bytes."""

    parts: Mapping[str, int]
    """Part -> bytes, in the phase that needs most."""

    @property
    def needed(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values()) + LATER

    def summary(self) -> str:
        """Return the largest parts in GB: `optimiser 9.1, data 3.0`."""
        least = 0.05 * max(self.needed, GB)
        largest = sorted(self.parts.items(), key=lambda part: -part[1])
        shown = [f"{name} {n / GB:.1f}" for name, n in largest if n >= least]
        return ", ".join(shown) or "the process itself"

    def advice(self, trainer: TrainerConfig) -> str:
        """Return which keys to lower, that of the largest part first."""
        largest = sorted(self.parts.items(), key=lambda part: -part[1])
        keys = [KEYS[name] for name, n in largest if name in KEYS and n >= 0.1 * self.needed]
        lower = list(dict.fromkeys(keys))
        words = f"lower {' or '.join(lower)}" if lower else "take a smaller dataset"
        if trainer.embedding_optimizer != "rowwise_adagrad" and "model.embedding_dim" in lower:
            words += ", take trainer.embedding_optimizer=rowwise_adagrad"
        return words


def estimate(config: Config, dataset: Dataset, device: torch.device) -> MemoryEstimate:
    """Return how much of the device's memory a run needs."""
    size = _Sizes(config, dataset)
    on_disk = Placement.choose(config.trainer.data, (dataset.train, dataset.valid), device)
    held, test = size.resident(on_disk=on_disk.where == "disk"), dataset.test
    training = {
        "weights and copies of them": size.weights_while_training(),
        "optimiser": size.optimizer(),
        "data": held + _answers_bytes(dataset.valid),
        "a training step": size.training_step(),
        "predictions": size.predictions(dataset.valid),
    }
    evaluation = size.evaluation_step(len(dataset.valid))
    if evaluation > training["a training step"]:
        del training["a training step"]
        training["an evaluation step"] = evaluation
    testing = {
        "weights and copies of them": 2 * size.state,  # they are saved from one piece of memory
        "data": held + _answers_bytes(test) + size.test_parts(),
        "an evaluation step": size.evaluation_step(len(test)),
        "predictions": size.predictions(test),
    }
    return MemoryEstimate(parts=max(training, testing, key=lambda parts: sum(parts.values())))


class _Sizes:
    """The numbers of a run that its memory follows from."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self.config, self.dataset = config, dataset
        self.n_tasks = len(dataset.schema.tasks)
        with torch.device("meta"), _Undrawn():
            network = build_network(config, dataset.schema)
        encoders = [m for m in network.modules() if isinstance(m, FeatureEncoder)]
        known = {id(encoder.table) for encoder in encoders}
        layers = [p for p in network.parameters() if id(p) not in known]
        weights = [p for p in layers if p.dim() == 2 or (p.dim() == 3 and p.shape[1] > 1)]
        self.table = sum(encoder.table.numel() for encoder in encoders)
        self.table_rows = sum(len(encoder.table) for encoder in encoders)
        self.copies = sum(encoder.copies for encoder in encoders)
        self.dense = sum(layer.numel() for layer in layers)
        self.masks = sum(mask.numel() for mask in network.buffers())
        self.state = 4 * (self.table + self.dense) + self.masks
        # Numbers per example: what is looked up, and the outputs of every layer. Weights are
        # `[n, in, out]` of n layers of one shape, or torch's `[out, in]`; biases `[n, 1, out]`.
        self.looked_up = sum(encoder.copies * encoder.width for encoder in encoders)
        if isinstance(config.model, NCSConfig) and "embeddings" in config.model.masked:
            self.looked_up *= self.n_tasks
        self.outputs = sum(len(w) * (w.shape[2] if w.dim() == 3 else 1) for w in weights)

    def weights_while_training(self) -> int:
        """Return the bytes of the network, of its best weights so far, and of a search's copies."""
        model = self.config.model
        if not isinstance(model, NCSConfig):
            return 2 * self.state
        if isinstance(search := model.finder, Magnitude):
            n = 5  # the start of the search, and a network with its own start and its best
        elif isinstance(search, Ranked) and search.choice != "last":
            n = 4  # the start of the search, and a candidate with its best
        else:
            trains = isinstance(search, GradientConflictSearch | LearnedSearch | Regrowing)
            n = 3 if trains else 2  # the start of the search, and its best
        # A search's networks may have a trunk per task, and all compute with masked copies of it.
        return n * self.state + 4 * (n + 1) * (self.n_tasks - 1) * self.dense

    def optimizer(self) -> int:
        """Return the bytes of the optimisers' state, and of gradients that live between steps."""
        # The gradient of dense Adam is as large as the table, and for a moment there are two.
        of_table = {
            "rowwise_adagrad": self.table_rows,
            "lazy_adam": 2 * self.table,
            "adam": 4 * self.table,
        }
        return 4 * (of_table[self.config.trainer.embedding_optimizer] + 3 * self.dense)

    def resident(self, *, on_disk: bool) -> int:
        """Return the bytes of the training and validation rows in memory, and of their order."""
        train, valid = self.dataset.train, self.dataset.valid
        hidden = self.config.protocol.label_share < 1 or train.weights is not None
        order = len(train) * (16 + 4 * self.n_tasks * hidden)
        n_bytes = rows_bytes(train) + rows_bytes(valid)
        if on_disk:
            n_bytes = min(n_bytes, 2 * WINDOW_BLOCKS * BLOCK_BYTES)
        return n_bytes + order

    def test_parts(self) -> int:
        """Return the bytes of the test rows in memory: one part, and the next one."""
        test, size = self.dataset.test, self.config.trainer.eval_batch_size
        n_bytes = rows_bytes(test)
        part = max(SEQUENTIAL_BLOCKS * BLOCK_BYTES, size * n_bytes // max(1, len(test)))
        return 2 * min(part, n_bytes)

    def training_step(self) -> int:
        """Return the bytes that come and go with a step, or with a probe of the tasks' gradients.

        Lists count by their mean length.
        """
        trainer, rows = self.config.trainer, len(self.dataset.train)
        n = min(rows, max(trainer.batch_size, self._probed()))
        layers = 4 * n * (STEP_INPUT * self.looked_up + STEP_OUTPUT * self.outputs)
        probe = 4 * 2 * self.n_tasks * self.dense
        return round(layers + self._ids(n, gradient=True) + probe)

    def evaluation_step(self, n_rows: int) -> int:
        """Return the bytes that come and go with a batch of one of the other splits."""
        n = min(n_rows, self.config.trainer.eval_batch_size)
        layers = 4 * n * (EVALUATION_INPUT * self.looked_up + EVALUATION_OUTPUT * self.outputs)
        return round(layers + self._ids(n, gradient=False))

    def predictions(self, split: Split) -> int:
        """Return the bytes of a split's predictions while they are scored, or written."""
        columns = 16 * self.n_tasks
        return len(split) * (columns + max(SCORING, 2 * (columns + self.n_tasks + 8)))

    def _probed(self) -> int:
        between = len(self.dataset.train) / self.config.trainer.evaluations_per_epoch
        return int(min(max(0.0075 * between, 256), MOST_PROBED))

    def _ids(self, n: int, *, gradient: bool) -> int:
        """Return the bytes of the ids of `n` rows, and of the rows of the table's gradient."""
        schema, train = self.dataset.schema, self.dataset.train
        lengths = [1.0] * len(schema.categorical)
        lengths += [len(bag.ids) / max(1, len(bag.offsets) - 1) for bag in train.bags]
        ids = self.copies * n * sum(lengths)
        fields = zip(lengths, schema.id_fields, strict=True)
        distinct = self.copies * sum(min(n * length, field.size) for length, field in fields)
        touched = 4 * 4 * distinct * self.config.model.embedding_dim if gradient else 0
        return round(PER_ID * ids + touched)


class _Undrawn(TorchFunctionMode):
    """Leaves initial values out: torch would import its compiler to draw none on `meta`."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _answers_bytes(split: Split) -> int:
    """Return the bytes of what predictions are scored by, which is in memory in any case."""
    answers = (split.labels, split.groups, split.truth)
    return sum(array.nbytes for array in answers if array is not None)


def check_memory(config: Config, dataset: Dataset, device: torch.device) -> None:
    """Refuse a run that will not fit, if `trainer.check_memory`; warn where that is not sure.

    Raises:
        RunError: The run needs more than `REFUSED` times of what is free.
    """
    if not config.trainer.check_memory:
        return
    found, free = estimate(config, dataset, device), available_memory(device)
    needs = f"the run needs about {found.needed / GB:.1f} GB of memory ({found.summary()})"
    _judge(found.needed, free, needs, found.advice(config.trainer))


def check_together(
    runs: Sequence[tuple[Config, Dataset]],
    device: torch.device,
    at_once: int,
    what: str = "of these runs",
) -> None:
    """Refuse a plan whose largest runs will not fit into this machine beside each other.

    Args:
        runs: Those of the plan.
        device: Their device; a GPU is not checked, since runs may be spread over several.
        at_once: How many run at any time.
        what: What a message calls them, after their number.

    Raises:
        RunError: They need more than `REFUSED` times of what is free.
    """
    asked = [run for run in runs if run[0].trainer.check_memory]
    if device.type != "cpu" or at_once == 1 or not asked:
        return
    # Runs that differ in their seed alone need the same.
    known = {config.all_but_seed: (config, dataset) for config, dataset in asked}
    needs = {key: PROCESS + estimate(*run, device).needed for key, run in known.items()}
    found = _at_once([needs[config.all_but_seed] for config, _ in asked], at_once)
    words = f"{at_once} {what} at once need up to {found.needed / GB:.1f} GB of memory"
    _judge(found.needed, found.free, words, found.advice)


def _judge(needed: int, free: AvailableMemory, needs: str, advice: str) -> None:
    if needed <= free.n_bytes:
        return
    words = f"{needs} and {free.n_bytes / GB:.1f} GB are free ({free.limit})"
    if needed > REFUSED * free.n_bytes:
        raise RunError(f"{words}; {advice}, or set trainer.check_memory=false to try")
    logging.getLogger(__name__).warning("%s, which may not be enough; if so, %s", words, advice)


def available_memory(device: torch.device) -> AvailableMemory:
    """Return how much memory is free on a device."""
    if device.type == "cuda":
        return AvailableMemory(n_bytes=torch.cuda.mem_get_info(device)[0], limit=str(device))
    return machine.available_memory()


class Need(NamedTuple):
    """What the runs of one configuration need; they differ in their seed alone."""

    runs: tuple[int, ...]
    """Their places in the plan."""
    estimate: MemoryEstimate | None
    """None where the dataset is not prepared."""
    free: AvailableMemory | None
    """On the device of the runs; None where that is not known here."""
    on_gpu: bool
    words: str
    """What to lower if it does not fit; why there is no estimate."""

    @property
    def times_free(self) -> float | None:
        """How many times of what is free one such run needs; None where that is not known."""
        if self.estimate is None or self.free is None:
            return None
        return self.estimate.needed / max(1, self.free.n_bytes)

    def plain(self) -> dict[str, Any]:
        """Return what `--json` prints, sizes in bytes."""
        return {
            "needed": None if self.estimate is None else self.estimate.needed,
            "free": None if self.free is None else self.free.n_bytes,
            "limit": None if self.free is None else self.free.limit,
            "fits": None if self.times_free is None else self.times_free <= 1,
            "reason": self.words if self.estimate is None else None,
        }


class AtOnce(NamedTuple):
    """The largest runs that processes of this machine would hold at the same time."""

    runs: int
    needed: int
    free: AvailableMemory
    advice: str
    """What to do about it; empty where they fit."""


def _at_once(each: Sequence[int], workers: int) -> AtOnce:
    """Compare what processes need, the largest as many as there are workers, with what is free."""
    largest = sorted(each, reverse=True)[:workers]
    free = machine.available_memory()
    n = sum(total <= free.n_bytes for total in accumulate(largest))
    smaller = f"set launcher.workers={n}" if n else "not even one fits: make the largest smaller"
    return AtOnce(len(largest), sum(largest), free, smaller if n < len(largest) else "")


def needs_of_plan(
    cells: Sequence[Composed], turn: Sequence[int], launcher: LauncherConfig
) -> tuple[list[Need], AtOnce | None]:
    """Return what the configurations of a plan need, and the largest of its runs together.

    Args:
        cells: Those of the plan.
        turn: Numbers of those that will run.
        launcher: What will start them; where it is not one of processes, nothing runs together.

    Raises:
        ConfigError: A device does not exist.
        DataError: A prepared dataset is damaged.
    """
    alike: dict[str, list[int]] = {}
    for number in turn:
        alike.setdefault(cells[number].config.all_but_seed, []).append(number)
    opened: dict[Path, Dataset] = {}
    needs = [_need(tuple(n), cells[n[0]], opened, launcher) for n in alike.values()]
    if not isinstance(launcher, ProcessesConfig):
        return needs, None
    each = [
        PROCESS + need.estimate.needed
        for need in needs
        if need.estimate is not None and not need.on_gpu
        for _ in need.runs
    ]
    found = _at_once(each, launcher.workers)
    return needs, found if found.runs > 1 else None


def _need(
    runs: tuple[int, ...], cell: Composed, opened: dict[Path, Dataset], launcher: LauncherConfig
) -> Need:
    config, name = cell.config, cell.choices["dataset"]
    folder = prepared_folder(config.dataset, name, Path(config.data_dir))
    if not folder.is_dir():
        return Need(runs, None, None, False, f"not estimated: {name} is not prepared yet")
    if folder not in opened:
        opened[folder] = open_dataset(folder)
    device, free = _place(config.trainer.device, launcher)
    found = estimate(config, opened[folder], device)
    return Need(runs, found, free, device.type == "cuda", found.advice(config.trainer))


def _place(name: str, launcher: LauncherConfig) -> tuple[torch.device, AvailableMemory | None]:
    """Return the device of a run, and how much is free on it where that can be known here."""
    try:
        device = resolve_device(name)
    except RunError:  # not here, but perhaps where the runs will be
        return torch.device(name), None
    if isinstance(launcher, SubmititConfig):
        size = round(launcher.memory_gb * 2**30) - PROCESS
        return device, AvailableMemory(n_bytes=size, limit="launcher.memory_gb")
    here = isinstance(launcher, LocalConfig | ProcessesConfig)
    return device, available_memory(device) if here else None
