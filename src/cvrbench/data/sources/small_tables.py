"""Public tables that are held in memory: two censuses and an e-mail campaign.

The censuses are of the United States, each with two tasks that do not nest.

**Census-Income (KDD)**, the data of the MMoE paper (Ma et al., KDD 2018, section 5.2).
archive.ics.uci.edu, dataset 117, CC BY 4.0; 199,523 training and 99,762 test rows. Two pairs of
tasks: income above 50 k with never married, and education of at least some college with never
married. `marital_stat` holds a label; `instance_weight` is, by the provider's word, not to be used
as a feature.

**UCI Adult** (Kohavi 1996): income above 50 k, and never married. archive.ics.uci.edu, dataset 2,
CC BY 4.0; 32,561 training and 16,281 test rows. The test file begins with a comment line and ends
its labels with a dot. `fnlwgt` is a sampling weight and `marital-status` holds a label, so neither
is a feature; `relationship` nearly tells whether someone is married, and is left out too.

**Hillstrom's MineThatData e-mail challenge** (2008): visit, and conversion given a visit.
minethatdata.com, public challenge data, 64,000 customers. Conversion implies visit without
exception, so it is a strict funnel with a rare second stage. `spend` is known only after the
conversion and never a feature; `segment` (the e-mail sent) is the treatment, known before.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.dataset import AdultConfig, CensusIncomeConfig, HillstromConfig
from cvrbench.data.archives import RawFile, locate
from cvrbench.data.raw import (
    SPLIT,
    Fractions,
    RawStream,
    by_row,
    check_labels,
    click_conversion,
    feature_fields,
    table_chunks,
)
from cvrbench.data.schema import Task
from cvrbench.data.sources.delimited import Layout, read, read_headerless
from cvrbench.errors import DataError

CENSUS_FILES = ("census-income.data", "census-income.test")
CENSUS_COLUMNS = (
    "age", "class_of_worker", "industry_code", "occupation_code", "education", "wage_per_hour",
    "enrolled_in_education", "marital_stat", "major_industry", "major_occupation", "race",
    "hispanic_origin", "sex", "union_member", "unemployment_reason", "employment_status",
    "capital_gains", "capital_losses", "stock_dividends", "tax_filer_status",
    "region_previous_residence", "state_previous_residence", "household_and_family_status",
    "household_summary", "instance_weight", "migration_msa", "migration_region",
    "migration_within_region", "same_house_1_year_ago", "migration_sunbelt",
    "persons_worked_for_employer", "family_members_under_18", "country_father",
    "country_mother", "country_self", "citizenship", "own_business_or_self_employed",
    "veterans_questionnaire", "veterans_benefits", "weeks_worked", "year", "income_50k",
)  # fmt: skip
CENSUS_NUMBERS = (
    "age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends",
    "persons_worked_for_employer", "weeks_worked",
)  # fmt: skip
COLLEGE = (
    "Some college but no degree", "Associates degree-occup /vocational",
    "Associates degree-academic program", "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)", "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)  # fmt: skip
ADULT_FILES = ("adult.data", "adult.test")
ADULT_COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation",
    "relationship", "race", "sex", "capital_gain", "capital_loss", "hours_per_week",
    "native_country", "income_50k",
)  # fmt: skip
ADULT_NUMBERS = ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week")
INCOME = Task(name="income", label="income")
EDUCATION = Task(name="education", label="college")
NEVER_MARRIED = Task(name="never_married", label="never_married")
N_BINS = 32
TRAIN, TEST = (pl.lit(number, pl.Int8).alias(SPLIT) for number in (0, 2))


def load_census_income(config: CensusIncomeConfig, raw: Path) -> RawStream:
    """Read the official two files; validation is part of the training file, or half the test."""
    files = locate(raw, CENSUS_FILES, dataset="census_income")
    income, married = ("- 50000", "50000+"), ("marital_stat", "Never married")
    college = pl.col("education").is_in(COLLEGE).cast(pl.UInt8).alias("college")
    learn, test = (
        _read(files[name], CENSUS_COLUMNS, income, married).with_columns(college)
        for name in CENSUS_FILES
    )
    if config.validation == "train_part":
        fractions = Fractions(config.valid_fraction, 0.0, config.split_seed)
        learn, test = learn.with_columns(by_row(len(learn), fractions)), test.with_columns(TEST)
    else:
        half = by_row(len(test), Fractions(0.5, 0.0, config.split_seed))
        learn, test = learn.with_columns(TRAIN), test.with_columns((2 - half).alias(SPLIT))
    excluded = {"marital_stat", "instance_weight", "income_50k"}
    first = INCOME
    if config.tasks == "education_married":
        excluded, first = excluded | {"education"}, EDUCATION
    features = [column for column in CENSUS_COLUMNS if column not in excluded]
    return _stream(learn, test, files, features, CENSUS_NUMBERS, first, config.min_count)


def load_adult(config: AdultConfig, raw: Path) -> RawStream:
    """Read the official two files; validation comes out of the training file."""
    files = locate(raw, ADULT_FILES, dataset="adult")
    income, married = ("<=50K", ">50K"), ("marital_status", "Never-married")
    learn, test = (
        _read(files[name], ADULT_COLUMNS, income, married, comment="|") for name in ADULT_FILES
    )
    fractions = Fractions(config.valid_fraction, 0.0, config.split_seed)
    learn, test = learn.with_columns(by_row(len(learn), fractions)), test.with_columns(TEST)
    excluded = {"fnlwgt", "marital_status", "relationship", "income_50k"}
    features = [column for column in ADULT_COLUMNS if column not in excluded]
    return _stream(learn, test, files, features, ADULT_NUMBERS, INCOME, config.min_count)


def _stream(
    learn: pl.DataFrame,
    test: pl.DataFrame,
    files: Mapping[str, RawFile],
    features: Sequence[str],
    numbers: Sequence[str],
    first: Task,
    min_count: int,
) -> RawStream:
    """Return the rows of both files; numeric features are also there as bins."""
    ids = [name for name in features if name not in numbers]
    bins = [f"{name}_bin" for name in numbers]
    return RawStream(
        chunks=table_chunks(_binned(learn, test, numbers), {"read": len(learn) + len(test)}),
        fields=feature_fields([*ids, *bins], numbers=numbers, min_count=min_count),
        tasks=(first, NEVER_MARRIED),
        sources={name: file.sha256() for name, file in files.items()},
    )


def _read(
    file: RawFile,
    columns: Sequence[str],
    income: tuple[str, str],
    married: tuple[str, str],
    *,
    comment: str | None = None,
) -> pl.DataFrame:
    """Read one file and add the labels.

    Args:
        file: One of the official two.
        columns: The file's columns.
        income: The values, without a dot at their end, of low and of high income.
        married: The column that tells, and its value for the never married.
        comment: How a line begins that is no row.

    Raises:
        DataError: The file is damaged, or an income is neither low nor high.
    """
    frame = read_headerless(file, columns, comment=comment)
    values = frame["income_50k"].str.strip_chars_end(".")
    low, high = income
    if len(unknown := values.filter(~values.is_in(income))):
        raise DataError(
            f"{file.where}: column 'income_50k' holds {unknown[0]!r}; expected {high!r} or {low!r}"
        )
    return frame.with_columns(
        (values == high).cast(pl.UInt8).alias("income"),
        (pl.col(married[0]) == married[1]).cast(pl.UInt8).alias("never_married"),
    )


def _binned(learn: pl.DataFrame, test: pl.DataFrame, numbers: Sequence[str]) -> pl.DataFrame:
    """Return both tables as one, its numbers as logarithms and cut at quantiles of training rows.

    Amounts such as capital gains are 0 for most and long-tailed for the rest: bins have an
    embedding for each range, the log keeps the order within it.

    Raises:
        DataError: A value is no number.
    """
    table = pl.concat([learn, test])
    trained = (table[SPLIT] == 0).to_numpy()
    added = []
    for column in numbers:
        values = _numbers(table, column)
        learned = values[trained]
        edges = set(np.quantile(learned, np.linspace(0, 1, N_BINS + 1)[1:-1]).tolist())
        if len(edges) < N_BINS // 2:  # mostly one value: spread the bins over the others
            other = learned[learned != np.median(learned)]
            if len(other):
                edges |= set(np.quantile(other, np.linspace(0, 1, N_BINS + 1)[:-1]).tolist())
        bins = np.searchsorted(sorted(edges), values, side="right")
        added.append(pl.Series(f"{column}_bin", bins))
        added.append(pl.Series(column, np.log1p(np.maximum(values, 0.0))))
    return table.with_columns(added)


def _numbers(frame: pl.DataFrame, column: str) -> npt.NDArray[np.float64]:
    try:
        return frame[column].cast(pl.Float64).to_numpy()
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"column {column!r} must hold numbers: {str(error).splitlines()[0]}"
        ) from None


HILLSTROM_FILE = "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv"
HILLSTROM_IDS = (
    "recency", "history_segment", "mens", "womens", "zip_code", "newbie", "channel", "segment",
)  # fmt: skip
HILLSTROM_LABELS = ("visit", "conversion")
HILLSTROM_LAYOUT = Layout(
    types=dict.fromkeys(HILLSTROM_IDS, pl.String)
    | {"history": pl.Float64}
    | dict.fromkeys(HILLSTROM_LABELS, pl.Int64),
    is_quoted=True,
)


def load_hillstrom(config: HillstromConfig, raw: Path) -> RawStream:
    """Read the one file and split it by row: there is one row per customer, and no time."""
    file = locate(raw, [HILLSTROM_FILE], dataset="hillstrom")[HILLSTROM_FILE]
    frame = read(file, HILLSTROM_LAYOUT)
    check_labels(frame, HILLSTROM_LABELS, HILLSTROM_FILE)
    fractions = Fractions.of(config)
    return RawStream(
        chunks=table_chunks(
            frame.with_columns(by_row(len(frame), fractions)), {"read": len(frame)}
        ),
        fields=feature_fields(HILLSTROM_IDS, numbers=["history"], min_count=config.min_count),
        tasks=click_conversion(*HILLSTROM_LABELS),
        sources={HILLSTROM_FILE: file.sha256()},
    )
