"""A finished run's network, as it was when its test rows were predicted.

The weights are read as data and put into a network built from the run's own configuration. Schema
and vocabularies are those kept beside the runs, or of the prepared dataset, which must be the one
that it was trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cvrbench.config.compose import Composed
from cvrbench.config.schema import Config
from cvrbench.config.validate import config_from_saved
from cvrbench.data.dataset import Dataset, open_dataset, read_vocabularies
from cvrbench.data.registry import ensure, is_outdated, prepared_folder
from cvrbench.data.schema import Schema
from cvrbench.errors import DataError, RunError, StoreError
from cvrbench.runs.record import RUN_AGAIN, RunRecord
from cvrbench.runs.store import (
    ResultStore,
    checked,
    read_record,
    read_run_config,
    require_finished,
)
from cvrbench.strategies import build_network
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.ncs import NCS
from cvrbench.system.files import check_no_links, check_regular

FILES = ("best.safetensors", "masks.safetensors")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network and where it comes from."""

    network: SharingStrategy
    """On the CPU, in evaluation mode."""
    config: Config
    record: RunRecord
    schema: Schema
    """Schema of the dataset that it was trained on."""
    data: Path
    """Folder with that dataset's vocabularies."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run as its folder has it."""

    folder: Path
    record: RunRecord
    composed: Composed

    def find_vocabularies(self) -> tuple[Path, Schema]:
        """Return the folder of the vocabularies that the run was trained with, and the schema.

        Raises:
            DataError: They are damaged, or neither they nor the prepared data are there.
        """
        results_dir = self.folder.resolve().parents[1]
        kept = ResultStore(results_dir).vocabularies / self.record.fingerprint
        if kept.is_dir():
            check_no_links(kept, within=results_dir)
            schema = read_vocabularies(kept)
            if schema.fingerprint == self.record.fingerprint:
                return kept, schema
        dataset = self.open_dataset()
        return dataset.path, dataset.schema

    def open_dataset(self, *, prepare: bool = False) -> Dataset:
        """Open the prepared data that the run was trained on.

        Args:
            prepare: Prepare what is not there; else it is an error. What is there is never
                prepared anew: the run's own data would be lost by that.

        Raises:
            DataError: They are missing, or are others now.
        """
        config, name = self.composed.config.dataset, self.composed.choices["dataset"]
        data_dir = Path(self.composed.config.data_dir)
        folder, run = prepared_folder(config, name, data_dir), self.record.run_id
        if folder.is_dir() and is_outdated(config, folder):
            raise DataError(
                f"{run} was trained on a table that has changed since; put the old one back"
            )
        if not folder.is_dir() and not prepare:
            raise DataError(
                f"{run} was trained on {folder}, which is not there; go to the folder that the run "
                f"was started in, or run `cvrbench data prepare {name}`"
            )
        dataset = open_dataset(folder) if folder.is_dir() else ensure(config, name, data_dir)
        if dataset.schema.fingerprint != self.record.fingerprint:
            raise DataError(
                f"{run} was trained on other data than {folder} holds now (fingerprint "
                f"{self.record.fingerprint}, now {dataset.schema.fingerprint}); put the old ones "
                "back, or run the cell again"
            )
        return dataset


def read_finished(folder: Path) -> Finished:
    """Read a finished run.

    Raises:
        StoreError: The folder holds no run, or something in it is damaged.
        RunError: The run is unfinished.
    """
    saved = read_run_config(folder)
    require_finished(folder)
    config = config_from_saved(saved.config)
    composed = Composed(config=config, choices=saved.choices, overrides=())
    return Finished(folder=folder, record=read_record(folder), composed=composed)


def load_trained(run_dir: Path) -> Trained:
    """Rebuild the network of a finished run.

    Raises:
        StoreError: The folder holds no run, or its weights are missing or damaged.
        RunError: The run is unfinished, or its weights do not fit its configuration.
        DataError: No vocabularies were kept, and the prepared dataset is not there or another.
    """
    run = read_finished(run_dir)
    config, (data, schema) = run.composed.config, run.find_vocabularies()
    with torch.random.fork_rng(devices=()):  # the fresh weights are replaced below
        network = build_network(config, schema)
    _fill(network, run_dir)
    return Trained(
        network=network.eval(), config=config, record=run.record, schema=schema, data=data
    )


def _fill(network: SharingStrategy, run_dir: Path) -> None:
    """Put the saved weights and masks into a freshly built network."""
    state: dict[str, Tensor] = {}
    masked = any(tensor.dtype == torch.bool for tensor in network.state_dict().values())
    for name in FILES if masked else FILES[:1]:
        if (found := read_weights(run_dir, name)) is None:
            raise StoreError(f"{run_dir} holds no {name}; {RUN_AGAIN}")
        state |= found
    if isinstance(network, NCS) and _own_weights(network, state):
        network.split()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RunError(
            f"the weights in {run_dir} do not fit its config.json ({reason}); run the cell again "
            "with --force"
        ) from None


def _own_weights(network: NCS, state: Mapping[str, Tensor]) -> bool:
    """Whether the search gave every task a trunk of its own: the saved one tells by its shape."""
    saved = state.get("trunk.biases.0")
    return saved is not None and len(saved) > network.trunk.n


def read_weights(folder: Path, name: str) -> dict[str, Tensor] | None:
    """Read a run's weights or masks; None where there are none.

    Raises:
        StoreError: They are damaged.
    """
    file = checked(folder, name)
    try:
        return load_file(check_regular(file)) if file.exists() else None
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{file} cannot be read ({error}); {RUN_AGAIN}") from None
