"""Census-Income (KDD), the data of the MMoE paper (Ma et al., KDD 2018, section 5.2).

Source: archive.ics.uci.edu, dataset 117, CC BY 4.0; 199,523 training and 99,762 test rows. Two
pairs of tasks: income above 50 k with never married, and education of at least some college with
never married. `marital_stat` holds a label; `instance_weight` is, by the provider's word, not to
be used as a feature.
"""

from pathlib import Path

import polars as pl

from cvrbench.config.dataset import CensusIncomeConfig
from cvrbench.data.archives import find_files
from cvrbench.data.raw import RawSplits
from cvrbench.data.schema import Task
from cvrbench.data.sources.census import binned, fields_of, label
from cvrbench.data.sources.delimited import read_headerless, sha256s
from cvrbench.data.splits import hold_out

FILES = ("census-income.data", "census-income.test")
COLUMNS = (
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
NUMBERS = (
    "age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends",
    "persons_worked_for_employer", "weeks_worked",
)  # fmt: skip
EXCLUDED = ("marital_stat", "instance_weight", "income_50k")
COLLEGE = (
    "Some college but no degree", "Associates degree-occup /vocational",
    "Associates degree-academic program", "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)", "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)  # fmt: skip
TASKS = {
    "income_married": (
        Task(name="income", label="income"),
        Task(name="never_married", label="never_married"),
    ),
    "education_married": (
        Task(name="education", label="college"),
        Task(name="never_married", label="never_married"),
    ),
}


def load(config: CensusIncomeConfig, raw: Path) -> RawSplits:
    """Read the official two files; validation is part of the training file, or half the test."""
    files = find_files(raw, FILES, dataset="census_income")
    learn, test = (_labelled(files[file], file) for file in FILES)
    read = len(learn) + len(test)
    learn, test = binned(learn, test, NUMBERS)
    if config.validation == "train_part":
        train, valid = hold_out(learn, fraction=config.valid_fraction, seed=config.split_seed)
    else:
        train, (test, valid) = learn, hold_out(test, fraction=0.5, seed=config.split_seed)
    own = {"income_married": (), "education_married": ("education",)}[config.tasks]
    return RawSplits(
        train=train,
        valid=valid,
        test=test,
        fields=fields_of(
            COLUMNS, numbers=NUMBERS, excluded=(*EXCLUDED, *own), min_count=config.min_count
        ),
        tasks=TASKS[config.tasks],
        accounting={"read": read},
        sources=sha256s(files),
    )


def _labelled(content: bytes, file: str) -> pl.DataFrame:
    frame = read_headerless(content, file, columns=COLUMNS)
    income = label(frame, file, "income_50k", positive=["50000+."], negative=["- 50000."])
    return frame.with_columns(
        income.alias("income"),
        (pl.col("marital_stat") == "Never married").cast(pl.UInt8).alias("never_married"),
        pl.col("education").is_in(COLLEGE).cast(pl.UInt8).alias("college"),
    )
