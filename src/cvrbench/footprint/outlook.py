"""What the runs of a plan will need, and what there is for them, told without starting any.

A rehearsal takes about a second, so that of a large plan some configurations are chosen: the one
with the largest rough bound of each dataset and strategy, and then the next largest of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cvrbench import machine
from cvrbench.config.compose import Composed
from cvrbench.config.launcher import LauncherConfig, LocalConfig, ProcessesConfig, SubmititConfig
from cvrbench.config.schema import Config
from cvrbench.data.dataset import Dataset, open_dataset
from cvrbench.data.registry import prepared_folder
from cvrbench.errors import RunError
from cvrbench.footprint import (
    PROCESS,
    Footprint,
    advice,
    estimate,
    fewer,
    most_beside,
    room,
    rough_bound,
)
from cvrbench.training.device import resolve_device

MOST_REHEARSED = 6
"""Configurations of a plan that are rehearsed."""
Place = tuple[torch.device, machine.Room | None]
"""Where runs are, and what is free there."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What the runs of one configuration need; they differ in their seed alone."""

    runs: tuple[int, ...]
    """Their places in the plan."""
    footprint: Footprint | None
    """None where it is not told."""
    reason: str = ""
    """Why it is not told."""
    free: machine.Room | None = None
    """On the device of the runs; None where that is not known."""
    advice: str = ""
    """What to lower, where it does not fit."""
    on_gpu: bool = False

    @property
    def fits(self) -> bool | None:
        """Whether one such run fits by itself; None where that is not known."""
        if self.footprint is None or self.free is None:
            return None
        return self.footprint.needed <= self.free.n_bytes

    def plain(self) -> dict[str, Any]:
        """Give what `--json` says of it, sizes in bytes."""
        return {
            "needed": None if self.footprint is None else self.footprint.needed,
            "free": None if self.free is None else self.free.n_bytes,
            "limit": None if self.free is None else self.free.limit,
            "fits": self.fits,
            "reason": self.reason or None,
        }


class AtOnce(NamedTuple):
    """The largest runs that processes of this machine would hold at the same time."""

    runs: int
    needed: int
    free: int
    advice: str
    """What to do about it; empty where they fit."""


class Outlook(NamedTuple):
    """What a plan needs."""

    needs: list[Need]
    """In the order of the plan."""
    at_once: AtOnce | None
    """None where one runs at a time, or on other machines."""


def look_ahead(cells: Sequence[Composed], turn: Sequence[int], launcher: LauncherConfig) -> Outlook:
    """Say what the runs of a plan need.

    Args:
        cells: Of the plan.
        turn: Numbers of those that will run.
        launcher: What will start them.

    Raises:
        ConfigError: A device is none.
        DataError: A prepared dataset is damaged.
    """
    opened: dict[Path, Dataset | None] = {}
    alike: dict[str, list[int]] = {}
    for number in turn:
        alike.setdefault(cells[number].config.all_but_seed, []).append(number)
    kinds = [tuple(numbers) for numbers in alike.values()]
    datasets = {runs: _open(cells[runs[0]], opened) for runs in kinds}
    chosen = _chosen([(runs, cells[runs[0]].config, datasets[runs]) for runs in kinds])
    devices = {cells[runs[0]].config.trainer.device for runs in kinds}
    places = {name: _place(name, launcher) for name in devices}
    needs = [
        _need(runs, cells[runs[0]], datasets[runs], places, is_chosen=runs in chosen)
        for runs in kinds
    ]
    return Outlook(needs, _at_once(needs, launcher))


def _open(cell: Composed, opened: dict[Path, Dataset | None]) -> Dataset | None:
    config = cell.config
    folder = prepared_folder(config.dataset, cell.choices["dataset"], Path(config.data_dir))
    if folder not in opened:
        opened[folder] = open_dataset(folder) if folder.is_dir() else None
    return opened[folder]


def _chosen(
    kinds: Sequence[tuple[tuple[int, ...], Config, Dataset | None]],
) -> set[tuple[int, ...]]:
    """Choose which configurations to rehearse, all if they are few."""
    known = [(runs, config, dataset) for runs, config, dataset in kinds if dataset is not None]
    if len(known) <= MOST_REHEARSED:
        return {runs for runs, _, _ in known}
    known.sort(key=lambda kind: rough_bound(kind[1], kind[2]), reverse=True)
    firsts: dict[tuple[Path, str], tuple[int, ...]] = {}
    for runs, config, dataset in known:
        firsts.setdefault((dataset.path, config.model.kind), runs)
    ranked = dict.fromkeys([*firsts.values(), *(runs for runs, _, _ in known)])
    return set(list(ranked)[:MOST_REHEARSED])


def _need(
    runs: tuple[int, ...],
    cell: Composed,
    dataset: Dataset | None,
    places: Mapping[str, Place],
    *,
    is_chosen: bool,
) -> Need:
    config = cell.config
    if dataset is None:
        reason = f"not estimated: {cell.choices['dataset']} is not prepared yet"
        return Need(runs=runs, footprint=None, reason=reason)
    if not is_chosen:
        return Need(runs=runs, footprint=None, reason="not estimated: larger ones were")
    device, free = places[config.trainer.device]
    found = estimate(config, dataset, device)
    if found is None:
        return Need(runs=runs, footprint=None, reason="cannot be estimated", free=free)
    on_gpu = device.type == "cuda"
    told = advice(config, found)
    return Need(runs=runs, footprint=found, free=free, advice=told, on_gpu=on_gpu)


def _place(name: str, launcher: LauncherConfig) -> Place:
    """Give the device of a run, and how much is free for it, where that can be known here."""
    try:
        device = resolve_device(name)
    except RunError:  # not here, but perhaps where the runs will be
        return torch.device(name), None
    if isinstance(launcher, SubmititConfig):
        size = round(launcher.memory_gb * 2**30) - PROCESS
        return device, machine.Room(n_bytes=size, limit="launcher.memory_gb")
    here = isinstance(launcher, LocalConfig | ProcessesConfig)
    return device, room(device) if here else None


def _at_once(needs: Sequence[Need], launcher: LauncherConfig) -> AtOnce | None:
    """Compare the largest runs that are told with what is free for all; GPUs may be several."""
    free = machine.room()
    if not isinstance(launcher, ProcessesConfig) or launcher.workers == 1 or free is None:
        return None
    each = [
        PROCESS + need.footprint.needed
        for need in needs
        if need.footprint is not None and not need.on_gpu
        for _ in need.runs
    ]
    each = sorted(each, reverse=True)[: launcher.workers]
    n = most_beside(each, free.n_bytes)
    told = fewer(n) if n < len(each) else ""
    return AtOnce(len(each), sum(each), free.n_bytes, told) if len(each) > 1 else None
