"""The prepared datasets under `data_dir`: where they are, and preparing one that is missing.

data_dir/raw/<source>/             raw files, put there by `fetch` or by the user
data_dir/prepared/<name>-<key>/    one per dataset and configuration
"""

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.dataset import AliCCPConfig, DatasetConfig, TableConfig
from cvrbench.config.validate import BINARY
from cvrbench.data.dataset import (
    FORMAT_VERSION,
    Dataset,
    mend,
    open_dataset,
    read_manifest,
    vocabulary_file,
)
from cvrbench.data.prepare import prepare
from cvrbench.data.raw import STRICT, OnRows, Tolerance, silent
from cvrbench.data.schema import MISSING, N_RESERVED, OOV, gap_name
from cvrbench.data.sources import load_raw, raw_folders, table
from cvrbench.data.sources.aliccp import ingest as aliccp
from cvrbench.data.sources.table_files import find_parts
from cvrbench.data.writer import tidy
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

    `name` is the option of the group `dataset`; `raw` a folder or archive with the raw files, if
    they are not in the usual places.

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
    if raw is not None and not raw_folders(config):
        raise DataError(
            f"dataset {name!r} reads no raw files: leave --raw out (a table has a path)"
        )
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


def first_rows(
    config: DatasetConfig, name: str, data_dir: Path, *, split: str, most: int
) -> pl.DataFrame:
    """Return rows of a split as they are before values become ids: fields, then labels.

    Raises:
        DataError: They are the user's own, or no table, or their files are missing.
    """
    if isinstance(config, TableConfig | AliCCPConfig):
        why = "they are those of your file" if config.kind == "table" else "two files hold them"
        raise DataError(f"no rows can be written of dataset {name!r}: {why}")
    stream = load_raw(config, find_raw(config, name, data_dir))
    columns = [*(field.name for field in stream.fields), *(task.label for task in stream.tasks)]
    found: list[pl.DataFrame] = []
    for chunk in stream.chunks(Counter()):
        found += [chunk.frame[columns]] if chunk.split == split else []
        if sum(map(len, found)) >= most:
            break
    return pl.concat(found).head(most)


def prepared_folder(config: DatasetConfig, name: str, data_dir: Path) -> Path:
    """Return the folder of a dataset of this configuration, prepared or not."""
    text = json.dumps([FORMAT_VERSION, _plain(config)], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:10]
    return data_dir / "prepared" / f"{name}-{key}"


def prepared_folders(name: str, data_dir: Path) -> list[Path]:
    """Return the prepared folders of a dataset, whatever its configuration was."""
    folders = sorted((data_dir / "prepared").glob("*"))
    return [f for f in folders if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{10}}", f.name)]


def status(config: DatasetConfig, name: str, data_dir: Path) -> tuple[str, int | None]:
    """Return the state of a dataset, and its number of rows if it is prepared."""
    folder = prepared_folder(config, name, data_dir)
    if folder.is_dir():
        try:
            return "prepared", sum(read_manifest(folder)["schema"]["rows"].values())
        except DataError:
            return f"damaged: {mend(name)}", None
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
    """Whether files of the user's own table changed since they were prepared."""
    if not isinstance(config, TableConfig):
        return False
    try:
        found = table.checksums(find_parts(config))
    except DataError:  # the files are gone, and what was prepared of them is all there is
        return False
    return bool(found != read_manifest(folder)["sources"])


def _plain(config: DatasetConfig) -> dict[str, Any]:
    def without_default(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if (key, value) != BINARY}

    text = json.dumps(asdict(config), default=str)
    plain: dict[str, Any] = json.loads(text, object_hook=without_default)
    return plain


Counts = dict[str, dict[str, dict[str, int]]]
"""Split -> space -> rows and positives."""


class FieldFacts(NamedTuple):
    """One feature field; numeric fields have no ids."""

    name: str
    kind: str
    ids: int = 0
    """Vocabulary without the reserved ids."""
    missing: float = 0.0
    """Share of training values that are absent."""
    unknown_test: float = 0.0
    """Share of test values that are OOV: rare or unseen in training."""
    top_share: float = 0.0
    """Share of training values that the most frequent id has."""


class Description(NamedTuple):
    """A dataset in numbers."""

    name: str
    fingerprint: str
    fields: tuple[FieldFacts, ...]
    counts: Counts
    rates: dict[str, dict[str, float]]
    """Split -> space -> share of positives."""
    accounting: dict[str, int]
    split: list[str]
    """How the rows were cut, in sentences."""
    id_counts: dict[str, npt.NDArray[np.int64]]
    """Field -> training count of each id, most frequent first."""


def describe(dataset: Dataset, counts: Counts) -> Description:
    """Return a description of a prepared dataset, given the counts of `evaluation.counts`."""
    schema = dataset.schema
    id_counts: dict[str, npt.NDArray[np.int64]] = {}
    facts = []
    train, test_rows = dataset.train, dataset.test
    ids = [("categorical", train.ids[:, k], test_rows.ids[:, k]) for k in range(train.ids.shape[1])]
    bags = zip(train.bags, test_rows.bags, strict=True)
    ids += [("multi-valued", bag.ids, test_bag.ids) for bag, test_bag in bags]
    common = {field.shares for field in schema.id_fields}
    for field, (kind, own, test) in zip(schema.id_fields, ids, strict=True):
        ids_of = pl.read_parquet(vocabulary_file(dataset.path, field.vocabulary), glob=False)
        count = ids_of["count"].to_numpy()
        if field.vocabulary in common:  # the table counts all fields that share it
            count = np.bincount(own, minlength=field.size)
        total = max(int(count.sum()), 1)
        id_counts[field.name] = known = np.sort(count[N_RESERVED:])[::-1]
        facts.append(
            FieldFacts(
                field.name,
                kind,
                ids=len(known),
                missing=int(count[MISSING]) / total,
                unknown_test=float((np.asarray(test) == OOV).mean()) if len(test) else 0.0,
                top_share=int(known.max(initial=0)) / total,
            )
        )
    numbers = [field.name for field in schema.numeric]
    for name in numbers:
        flag = gap_name(name)  # a column of 0 and 1, standardised by 0 and 1
        gaps = dataset.train.numeric[:, numbers.index(flag)] if flag in numbers else np.zeros(1)
        facts.append(FieldFacts(name, "numeric", missing=float(gaps.mean(dtype=np.float64))))
    facts += [FieldFacts(v.name, f"vector of {v.width}") for v in schema.vectors]
    return Description(
        name=schema.name,
        fingerprint=schema.fingerprint,
        fields=tuple(facts),
        counts=counts,
        rates={
            split: {space: c["positives"] / max(c["rows"], 1) for space, c in spaces.items()}
            for split, spaces in counts.items()
        },
        accounting=dataset.manifest["accounting"],
        split=dataset.manifest.get("split", []),
        id_counts=id_counts,
    )


def description_json(description: Description) -> dict[str, Any]:
    """Return the plain form, without the frequency of every id."""
    plain = description._asdict() | {"fields": [fact._asdict() for fact in description.fields]}
    del plain["id_counts"]
    return plain
