"""A prepared dataset in numbers: fields, sizes, gaps, label rates per split and space."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.dataset import Dataset
from cvrbench.data.schema import MISSING, N_RESERVED, OOV

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
    id_counts: dict[str, npt.NDArray[np.int64]]
    """Field -> training count of each id, most frequent first."""


def describe(dataset: Dataset, counts: Counts) -> Description:
    """Return a description of a prepared dataset, given the counts of `evaluation.counts`."""
    schema = dataset.schema
    id_counts: dict[str, npt.NDArray[np.int64]] = {}
    facts = []
    ids = [("categorical", dataset.test.ids[:, k]) for k in range(len(schema.categorical))]
    ids += [("multi-valued", bag.ids) for bag in dataset.test.bags]
    for field, (kind, test) in zip(schema.id_fields, ids, strict=True):
        table = pl.read_parquet(dataset.path / "vocabulary" / f"{field.name}.parquet")
        count = table["count"].to_numpy()
        total = max(int(count.sum()), 1)
        id_counts[field.name] = known = count[N_RESERVED:]
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
    return Description(
        name=schema.name,
        fingerprint=schema.fingerprint,
        fields=(*facts, *(FieldFacts(field.name, "numeric") for field in schema.numeric)),
        counts=counts,
        rates={
            split: {space: c["positives"] / max(c["rows"], 1) for space, c in spaces.items()}
            for split, spaces in counts.items()
        },
        accounting=dataset.manifest["accounting"],
        id_counts=id_counts,
    )


def to_json(description: Description) -> dict[str, Any]:
    """Return the plain form, without the frequency of every id."""
    plain = description._asdict() | {"fields": [fact._asdict() for fact in description.fields]}
    del plain["id_counts"]
    return plain
