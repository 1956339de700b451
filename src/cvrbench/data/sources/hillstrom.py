"""Hillstrom's MineThatData e-mail challenge (2008): visit, and conversion given a visit.

Source: minethatdata.com, public challenge data, 64,000 customers. Conversion implies visit
without exception, so it is a strict funnel with a rare second stage. `spend` is known only after
the conversion and never a feature; `segment` (the e-mail sent) is the treatment, known before.
"""

from pathlib import Path

import polars as pl

from cvrbench.config.dataset import HillstromConfig
from cvrbench.data.archives import find_files
from cvrbench.data.checks import check_labels
from cvrbench.data.raw import RawField, RawSplits
from cvrbench.data.schema import Task
from cvrbench.data.sources.delimited import read_csv, sha256s
from cvrbench.data.splits import by_row

FILE = "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv"
CATEGORICAL = (
    "recency", "history_segment", "mens", "womens", "zip_code", "newbie", "channel", "segment",
)  # fmt: skip
LABELS = ("visit", "conversion")
TASKS = (
    Task(name="ctr", label="visit"),
    Task(name="cvr", label="conversion", parent="ctr", joint="ctcvr"),
)


def load(config: HillstromConfig, raw: Path) -> RawSplits:
    """Read the one file and split it by row: there is one row per customer, and no time."""
    files = find_files(raw, [FILE], dataset="hillstrom")
    frame = read_csv(
        files[FILE],
        FILE,
        needed=[*CATEGORICAL, "history", *LABELS],
        dtypes={"history": pl.Float64} | dict.fromkeys(LABELS, pl.Int64),
    )
    check_labels(frame, LABELS, FILE)
    cut = by_row(
        frame,
        valid_fraction=config.valid_fraction,
        test_fraction=config.test_fraction,
        seed=config.split_seed,
    )
    fields = [RawField(name=f, kind="categorical", min_count=config.min_count) for f in CATEGORICAL]
    return RawSplits(
        train=cut.train,
        valid=cut.valid,
        test=cut.test,
        fields=(*fields, RawField(name="history", kind="numeric")),
        tasks=TASKS,
        accounting={"read": len(frame)},
        sources=sha256s(files),
    )
