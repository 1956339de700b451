"""What was read, kept and dropped; what can be learned from it; and how it compares."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cvrbench.config.aliccp import AliCCPConfig
from cvrbench.data.dataset import SPLITS
from cvrbench.data.sources.aliccp.faults import FaultLog
from cvrbench.data.sources.aliccp.grammar import FIELDS, KNOWN_TOTALS, file_name
from cvrbench.data.sources.aliccp.half import HalfRead
from cvrbench.errors import DataError

UNCLICKED = "conversion = 1 with click = 0"


def account(halves: Sequence[HalfRead], log: FaultLog, config: AliCCPConfig) -> dict[str, int]:
    """Give skeleton rows read, and dropped or changed by reason; `read` = kept + dropped."""
    counts = {"read": sum(half.totals.rows for half in halves)}
    for half in halves:
        for reason, n in log.dropped(file_name("skeleton", half.half)).items():
            key = f"dropped: {reason}"
            counts[key] = counts.get(key, 0) + n
    broken = sum(half.totals.broken for half in halves)
    words = {"drop": "dropped", "keep": "kept", "zero_conversion": "conversion set to 0"}
    if broken:
        counts[f"{words[config.unclicked_conversions]}: {UNCLICKED}"] = broken
    left_out = sum(sum(log.dropped(file_name("common", half.half)).values()) for half in halves)
    if left_out:
        counts["lines of the common files left out"] = left_out
    return counts


def check_rows(halves: Sequence[HalfRead], name: str) -> None:
    """Check that every split has rows, clicks and conversions.

    Raises:
        DataError: One has not.
    """
    labels = np.sum([half.totals.kept for half in halves], axis=0)
    if halves[0].layout.config.validation == "test":
        labels[1] = labels[2]
    for split, (rows, clicks, conversions) in zip(SPLITS, labels.tolist(), strict=True):
        if not rows:
            raise DataError(
                f"{name}: the {split} split is empty; change dataset.validation or "
                "dataset.valid_fraction"
            )
        for label, n, of in (("click", clicks, rows), ("conversion", conversions, clicks)):
            if n in {0, of}:
                only = "no row has" if n == 0 else "every row has"
                raise DataError(
                    f"{name}, {split} split: {only} {label} = 1 among {of:,} rows; a constant "
                    "label can be neither learned nor scored: are these the whole files?"
                )


def compare(halves: Sequence[HalfRead], distinct: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Set what was found beside what the published files hold: name -> found, known.

    Args:
        halves: Both.
        distinct: Distinct ids of the training file by field.
    """
    found: dict[str, int] = {}
    for half in halves:
        found |= {
            f"{half.half} skeleton rows": half.totals.rows,
            f"{half.half} clicks": half.totals.clicks,
            f"{half.half} conversions": half.totals.conversions,
            f"{half.half} conversions without a click": half.totals.unclicked_conversions,
            f"{half.half} common rows": half.totals.common_rows,
        }
    known = KNOWN_TOTALS | {f"distinct {field.name}": field.distinct for field in FIELDS}
    found |= {f"distinct {name}": n for name, n in distinct.items()}
    return {name: {"found": n, "known": known.get(name)} for name, n in found.items()}


def remarks(config: AliCCPConfig, totals: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what the user of the dataset should know: other files than published, unfair splits."""
    said = []
    rows = totals["train skeleton rows"]
    if rows["found"] != rows["known"]:
        said.append(
            f"not the published training file: {rows['found']:,} rows, published {rows['known']:,}"
        )
    else:
        said += [
            f"{name}: {found['found']:,}, published {found['known']:,}"
            for name, found in totals.items()
            if found["known"] is not None and found["found"] != found["known"]
        ]
    if config.validation == "random":
        said.append(
            "validation rows are drawn at random: a user and even a page view is on both sides, so "
            "validation flatters; dataset.validation=user does not"
        )
    if config.validation == "test":
        said.append(
            "the test rows validate too: epochs are chosen on the test, so its scores flatter"
        )
    if config.weights == "numeric":
        said.append("weights are scaled to [0, 1] over all splits, the test included")
    return said
