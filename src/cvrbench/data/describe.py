"""A prepared dataset in numbers: fields, sizes, gaps, label rates per split and space."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.dataset import Dataset
from cvrbench.data.schema import MISSING, N_RESERVED, OOV


@dataclass(frozen=True, kw_only=True)
class FieldFacts:
    """One feature field."""

    name: str
    kind: str
    ids: int
    """Vocabulary without the reserved ids; 0 of numeric fields."""
    missing: float
    """Share of training values that are absent."""
    unknown_test: float
    """Share of test values that are OOV: rare or unseen in training."""
    top_share: float
    """Share of training values that the most frequent id has."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """A dataset in numbers; `rates` and `counts` are by split and space."""

    name: str
    fingerprint: str
    fields: tuple[FieldFacts, ...]
    counts: dict[str, dict[str, dict[str, int]]]
    rates: dict[str, dict[str, float]]
    id_counts: dict[str, npt.NDArray[np.int64]]
    """Field -> training count of each id, most frequent first."""
    accounting: dict[str, int]


def describe(dataset: Dataset, counts: dict[str, dict[str, dict[str, int]]]) -> Description:
    """Return a description of a prepared dataset.

    Args:
        dataset: The dataset.
        counts: Split -> space -> rows and positives, of `evaluation.counts`.
    """
    schema = dataset.schema
    tables = {
        field.name: pl.read_parquet(dataset.path / "vocabulary" / f"{field.name}.parquet")
        for field in schema.id_fields
    }
    facts = []
    for index, field in enumerate(schema.categorical):
        test = np.asarray(dataset.test.ids[:, index])
        facts.append(_facts(field.name, "categorical", tables[field.name], test))
    for index, bag in enumerate(schema.multivalued):
        test = np.asarray(dataset.test.bags[index].ids)
        facts.append(_facts(bag.name, "multi-valued", tables[bag.name], test))
    facts += [
        FieldFacts(name=f.name, kind="numeric", ids=0, missing=0.0, unknown_test=0.0, top_share=0.0)
        for f in schema.numeric
    ]
    return Description(
        name=schema.name,
        fingerprint=schema.fingerprint,
        fields=tuple(facts),
        counts=counts,
        rates={
            split: {space: c["positives"] / max(c["rows"], 1) for space, c in spaces.items()}
            for split, spaces in counts.items()
        },
        id_counts={
            name: table.filter(pl.col("id") >= N_RESERVED)["count"].to_numpy()
            for name, table in tables.items()
        },
        accounting=dataset.manifest["accounting"],
    )


def to_json(description: Description) -> dict[str, Any]:
    """Return the plain form, without the frequency of every id."""
    return {
        "name": description.name,
        "fingerprint": description.fingerprint,
        "fields": [vars(field) for field in description.fields],
        "counts": description.counts,
        "rates": description.rates,
        "accounting": description.accounting,
    }


def _facts(name: str, kind: str, table: pl.DataFrame, test: npt.NDArray[np.int32]) -> FieldFacts:
    count = table["count"].to_numpy()
    total = max(int(count.sum()), 1)
    return FieldFacts(
        name=name,
        kind=kind,
        ids=len(table) - N_RESERVED,
        missing=int(count[MISSING]) / total,
        unknown_test=float((test == OOV).mean()) if len(test) else 0.0,
        top_share=int(count[N_RESERVED:].max(initial=0)) / total,
    )
