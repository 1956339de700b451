"""The masks themselves, and which input field each row of the first layer belongs to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cvrbench.config.validate import config_from_saved
from cvrbench.data.dataset import read_manifest
from cvrbench.data.registry import prepared_folder
from cvrbench.data.schema import Schema
from cvrbench.errors import ConfigError, DataError, StoreError
from cvrbench.record import RunRecord
from cvrbench.report.masks import is_matrix
from cvrbench.run_files import checked

Keep = Mapping[str, npt.NDArray[np.bool_]]
"""Layer -> `[tasks, in, out]`, which connections each task keeps."""
PREFIX = "keep."


class FieldRows(NamedTuple):
    """The rows of the first layer's matrix that read one input field."""

    name: str
    start: int
    stop: int


def read_keep(folder: Path) -> dict[str, npt.NDArray[np.bool_]]:
    """Read the masks of a run's trunk, layer by layer; none where only other parts have some.

    Raises:
        StoreError: The file is missing or damaged.
    """
    file = checked(folder, "masks.safetensors")
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{file} cannot be read ({str(error).splitlines()[0]}); run the cell again with --force"
        ) from None
    named = {key.removeprefix(PREFIX): keep for key, keep in found.items()}
    numbers = sorted(int(name.removeprefix("trunk_")) for name in named if is_matrix(name))
    return {f"trunk_{number}": named[f"trunk_{number}"] for number in numbers}


def field_rows(record: RunRecord, n_inputs: int) -> list[FieldRows] | None:
    """Say which rows of the first layer read which field; None where the dataset is gone.

    The network's input is every field's embedding, one beside the other, then the numbers.
    """
    schema = _schema(record)
    if schema is None:
        return None
    width: Any = record.config["model"].get("embedding_dim")
    names = [(field.name, int(width)) for field in schema.id_fields]
    names += [(field.name, 1) for field in schema.numeric]
    found, start = [], 0
    for name, n_rows in names:
        found.append(FieldRows(name, start, start + n_rows))
        start += n_rows
    return found if start == n_inputs else None


def kept_of_fields(
    keep: npt.NDArray[np.bool_], fields: Sequence[FieldRows]
) -> npt.NDArray[np.float64]:
    """Share of each field's connections that each task keeps: `[tasks, in, out]` -> `[tasks, n]`.

    >>> keep = np.array([[[True, True], [True, False], [False, False]]])
    >>> kept_of_fields(keep, [FieldRows("user", 0, 2), FieldRows("age", 2, 3)]).tolist()
    [[0.75, 0.0]]
    """
    return np.stack([keep[:, f.start : f.stop].mean(axis=(1, 2)) for f in fields], axis=1)


def _schema(record: RunRecord) -> Schema | None:
    """The schema of the prepared data that the run was trained on, if they are still there."""
    try:
        config = config_from_saved(record.config)
        folder = prepared_folder(config.dataset, record.dataset, Path(config.data_dir))
        schema = Schema.from_json(read_manifest(folder)["schema"])
    except (ConfigError, DataError, KeyError):
        return None
    return schema if schema.fingerprint == record.fingerprint else None
