"""Hillstrom's MineThatData e-mail challenge (2008): visit, and conversion given a visit.

Source: minethatdata.com, public challenge data, 64,000 customers. Conversion implies visit
without exception, so it is a strict funnel with a rare second stage. `spend` is known only after
the conversion and never a feature; `segment` (the e-mail sent) is the treatment, known before.
"""

from pathlib import Path

import polars as pl

from cvrbench.config.dataset import HillstromConfig
from cvrbench.data.archives import locate
from cvrbench.data.raw import (
    Fractions,
    RawStream,
    by_row,
    check_labels,
    click_conversion,
    feature_fields,
    table_chunks,
)
from cvrbench.data.sources.delimited import Layout, read

FILE = "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv"
CATEGORICAL = (
    "recency", "history_segment", "mens", "womens", "zip_code", "newbie", "channel", "segment",
)  # fmt: skip
LABELS = ("visit", "conversion")
LAYOUT = Layout(
    types=dict.fromkeys(CATEGORICAL, pl.String)
    | {"history": pl.Float64}
    | dict.fromkeys(LABELS, pl.Int64),
    is_quoted=True,
)


def load(config: HillstromConfig, raw: Path) -> RawStream:
    """Read the one file and split it by row: there is one row per customer, and no time."""
    file = locate(raw, [FILE], dataset="hillstrom")[FILE]
    frame = read(file, LAYOUT)
    check_labels(frame, LABELS, FILE)
    fractions = Fractions(config.valid_fraction, config.test_fraction, config.split_seed)
    return RawStream(
        chunks=table_chunks(
            frame.with_columns(by_row(len(frame), fractions)), {"read": len(frame)}
        ),
        fields=feature_fields(CATEGORICAL, numbers=["history"], min_count=config.min_count),
        tasks=click_conversion(*LABELS),
        sources={FILE: file.sha256()},
    )
