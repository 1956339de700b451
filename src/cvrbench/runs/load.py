"""A finished run's network, as it was when its test rows were predicted.

The weights are read as data and put into a network built from the run's own configuration; its
schema is read from the prepared dataset, which must be the one that it was trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cvrbench.config.schema import Config
from cvrbench.config.validate import config_from_saved
from cvrbench.data.dataset import Dataset, open_dataset
from cvrbench.data.registry import prepared_folder
from cvrbench.data.schema import Schema
from cvrbench.errors import DataError, RunError, StoreError
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import RunFolder, checked, read_record, read_run_config
from cvrbench.strategies import build_network
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.ncs import NCS

WEIGHTS, MASKS = "best.safetensors", "masks.safetensors"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network and where it comes from."""

    network: SharingStrategy
    """On the CPU, in evaluation mode."""
    config: Config
    record: RunRecord
    dataset: Dataset

    @property
    def schema(self) -> Schema:
        """Schema of the dataset that it was trained on."""
        return self.dataset.schema


def load_trained(run_dir: Path) -> Trained:
    """Rebuild the network of a finished run.

    Raises:
        StoreError: The folder holds no run, or its weights are missing or damaged.
        RunError: The run is unfinished, or its weights do not fit its configuration.
        DataError: The prepared dataset is not there, or is another one now.
    """
    saved = read_run_config(run_dir)
    if RunFolder(run_dir).checkpoints.is_dir() or not (run_dir / "record.json").is_file():
        raise RunError(f"{run_dir} is unfinished; end it with `cvrbench resume {run_dir}`")
    record = read_record(run_dir)
    config = config_from_saved(saved["config"])
    dataset = _dataset(config, saved["choices"]["dataset"], record)
    with torch.random.fork_rng(devices=()):  # the fresh weights are replaced below
        network = build_network(config, dataset.schema)
    _fill(network, run_dir)
    return Trained(network=network.eval(), config=config, record=record, dataset=dataset)


def _dataset(config: Config, name: str, record: RunRecord) -> Dataset:
    """Open the dataset; nothing is prepared here, since it would hardly be the same again."""
    folder = prepared_folder(config.dataset, name, Path(config.data_dir))
    if not folder.is_dir():
        raise DataError(
            f"{record.run_id} was trained on {folder}, which is not there; go to the folder that "
            f"the run was started in, or run `cvrbench data prepare {name}`"
        )
    dataset = open_dataset(folder)
    if dataset.schema.fingerprint != record.fingerprint:
        raise DataError(
            f"{record.run_id} was trained on other data than {folder} holds now (fingerprint "
            f"{record.fingerprint}, now {dataset.schema.fingerprint}); put the old ones back, or "
            "run the cell again"
        )
    return dataset


def _fill(network: SharingStrategy, run_dir: Path) -> None:
    """Put the saved weights and masks into a freshly built network."""
    state = _read(run_dir, WEIGHTS)
    if any(tensor.dtype == torch.bool for tensor in network.state_dict().values()):
        state |= _read(run_dir, MASKS)
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


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    file = checked(folder, name)
    if not file.is_file():
        raise StoreError(f"{file.parent} holds no {file.name}; run the cell again with --force")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{file} cannot be read ({error}); run the cell again with --force"
        ) from None
