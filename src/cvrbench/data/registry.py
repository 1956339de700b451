"""The prepared datasets under `data_dir`: where they are, and preparing one that is missing.

data_dir/raw/<source>/             raw files, put there by `fetch` or by the user
data_dir/prepared/<name>-<key>/    one per dataset and configuration
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cvrbench.config.dataset import AliCCPConfig, DatasetConfig, TableConfig
from cvrbench.data.dataset import FORMAT_VERSION, Dataset, open_dataset, read_manifest, sha256_of
from cvrbench.data.prepare import prepare
from cvrbench.data.raw import STRICT, OnRows, Tolerance, silent
from cvrbench.data.sources import load_raw, raw_folders
from cvrbench.data.sources.aliccp import ingest as aliccp
from cvrbench.data.staging import tidy
from cvrbench.errors import DataError

RAW_DATA_VARIABLE = "CVRBENCH_RAW_DATA"


def ensure(
    config: DatasetConfig,
    name: str,
    data_dir: Path,
    *,
    raw: Path | None = None,
    force: bool = False,
    tolerance: Tolerance = STRICT,
    on_rows: OnRows = silent,
) -> Dataset:
    """Open a prepared dataset; prepare it first where it is not, or `force` is set.

    Args:
        config: Which source, tasks and split.
        name: The option of the group `dataset`.
        data_dir: Folder of datasets.
        raw: Folder or archive with the raw files, if not in the usual places.
        force: Prepare again what is prepared.
        tolerance: How many faulty lines to skip, where the source can leave them out.
        on_rows: Called with a preparation's progress.

    Raises:
        DataError: There is no prepared dataset and no raw files, or they fail a check.
    """
    folder = prepared_folder(config, name, data_dir)
    tidy(folder.parent)
    missing = not folder.is_dir()
    if raw is None and not force and not missing and not is_outdated(config, folder):
        return open_dataset(folder)
    if raw is not None and not raw.exists():
        raise DataError(f"--raw {raw} does not exist")
    found = raw if raw is not None else find_raw(config, name, data_dir)
    if isinstance(config, AliCCPConfig):
        return aliccp.prepare(
            config,
            found,
            folder,
            name=name,
            plain=_plain(config),
            tolerance=tolerance,
            force=force,
            on_rows=on_rows,
        )
    rows = load_raw(config, found)
    keep = raw is None and not force and missing
    plain = _plain(config)
    return prepare(rows, name=name, target=folder, config=plain, keep=keep, on_rows=on_rows)


def prepared_folder(config: DatasetConfig, name: str, data_dir: Path) -> Path:
    """Return the folder of a dataset of this configuration, prepared or not."""
    text = json.dumps([FORMAT_VERSION, _plain(config)], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:10]
    return data_dir / "prepared" / f"{name}-{key}"


def status(config: DatasetConfig, name: str, data_dir: Path) -> tuple[str, int | None]:
    """Return the state of a dataset, and its number of rows if it is prepared."""
    folder = prepared_folder(config, name, data_dir)
    if folder.is_dir():
        return "prepared", sum(read_manifest(folder)["schema"]["rows"].values())
    if isinstance(config, TableConfig):
        return "describe your file in its yaml", None
    try:
        find_raw(config, name, data_dir)
    except DataError:
        return f"to fetch: cvrbench data fetch {raw_folders(config)[0]}", None
    return "to prepare" if raw_folders(config) else "drawn when first used", None


def find_raw(config: DatasetConfig, name: str, data_dir: Path) -> Path:
    """Return the folder of a source's raw files: under `data_dir/raw`, or $CVRBENCH_RAW_DATA.

    Raises:
        DataError: There is no such folder.
    """
    names = raw_folders(config)
    if not names:
        return data_dir
    places = [data_dir / "raw" / name for name in names]
    if shared := os.environ.get(RAW_DATA_VARIABLE):
        places += [Path(shared) / name for name in names]
    for place in places:
        if place.is_dir() and any(place.iterdir()):
            return place
    raise DataError(
        f"dataset {name!r} needs its raw files, and there are none in {places[0]}; run "
        f"`cvrbench data fetch {names[0]}`, or "
        f"`cvrbench data prepare {name} --raw DIR_OR_ARCHIVE`"
    )


def is_outdated(config: DatasetConfig, folder: Path) -> bool:
    """Whether the user's own table changed since it was prepared."""
    if not isinstance(config, TableConfig):
        return False
    table = Path(config.path).expanduser()
    known = read_manifest(folder)["sources"].get(table.name)
    return table.is_file() and sha256_of(table) != known


def _plain(config: DatasetConfig) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return plain
