"""UCI Adult (Kohavi 1996): income above 50 k, and never married; two tasks that do not nest.

Source: archive.ics.uci.edu, dataset 2, CC BY 4.0; 32,561 training and 16,281 test rows. The test
file begins with a comment line and ends its labels with a dot. `fnlwgt` is a sampling weight and
`marital-status` holds a label, so neither is a feature; `relationship` nearly tells whether
someone is married, and is left out too.
"""

from pathlib import Path

import polars as pl

from cvrbench.config.dataset import AdultConfig
from cvrbench.data.archives import find_files
from cvrbench.data.raw import RawSplits
from cvrbench.data.schema import Task
from cvrbench.data.sources.census import binned, fields_of, label
from cvrbench.data.sources.delimited import read_headerless, sha256s
from cvrbench.data.splits import hold_out

COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation",
    "relationship", "race", "sex", "capital_gain", "capital_loss", "hours_per_week",
    "native_country", "income_50k",
)  # fmt: skip
NUMBERS = ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week")
EXCLUDED = ("fnlwgt", "marital_status", "relationship", "income_50k")
TASKS = (Task(name="income", label="income"), Task(name="never_married", label="never_married"))


def load(config: AdultConfig, raw: Path) -> RawSplits:
    """Read the official two files; validation comes out of the training file."""
    files = find_files(raw, ["adult.data", "adult.test"], dataset="adult")
    learn, test = (
        _labelled(read_headerless(files[file], file, columns=COLUMNS, comment="|"), file)
        for file in ("adult.data", "adult.test")
    )
    learn, test = binned(learn, test, NUMBERS)
    train, valid = hold_out(learn, fraction=config.valid_fraction, seed=config.split_seed)
    return RawSplits(
        train=train,
        valid=valid,
        test=test,
        fields=fields_of(COLUMNS, numbers=NUMBERS, excluded=EXCLUDED, min_count=config.min_count),
        tasks=TASKS,
        accounting={"read": len(learn) + len(test)},
        sources=sha256s(files),
    )


def _labelled(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    frame = frame.with_columns(pl.col("income_50k").str.strip_chars_end("."))
    return frame.with_columns(
        label(frame, file, "income_50k", positive=[">50K"], negative=["<=50K"]).alias("income"),
        (pl.col("marital_status") == "Never-married").cast(pl.UInt8).alias("never_married"),
    )
