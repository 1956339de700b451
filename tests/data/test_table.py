"""The user's own table: CSV or Parquet, described by one yaml."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from cvrbench.config.dataset import TableConfig, TableTask
from cvrbench.data.registry import ensure
from cvrbench.data.sources import table
from cvrbench.errors import DataError
from tests.data.checks import Tables, check


def log(rows: int = 900) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    click = (rng.random(rows) < 0.5).astype(int)
    first = date(2026, 1, 1)
    return pl.DataFrame(
        {
            "user": [f"u{i}" for i in rng.integers(60, size=rows)],
            "item": rng.integers(20, size=rows),
            "price": rng.random(rows),
            "tags": ["|".join(["x", "y"][: i % 3]) for i in range(rows)],
            "day": [first + timedelta(days=int(d)) for d in rng.integers(90, size=rows)],
            "click": click,
            "bought": click * (rng.random(rows) < 0.4).astype(int),
        }
    )


def described(path, **changes) -> TableConfig:
    values = {
        "kind": "table",
        "path": str(path),
        "ids": ("user", "item"),
        "numbers": ("price",),
        "lists": ("tags",),
        "list_separator": "|",
        "tasks": (
            TableTask(name="ctr", label="click"),
            TableTask(name="cvr", label="bought", parent="ctr", joint="ctcvr"),
        ),
        "group": "user",
        "split": "random",
        "split_column": None,
        "valid_fraction": 0.2,
        "test_fraction": 0.2,
        "split_seed": 0,
        "min_count": 1,
        "unclicked_conversions": "refuse",
    }
    return TableConfig(**{**values, **changes})


def load(config: TableConfig) -> Tables:
    return Tables.of(table.load(config))


@pytest.fixture
def csv(tmp_path):
    log().write_csv(tmp_path / "log.csv")
    return tmp_path / "log.csv"


def test_csv_and_parquet_are_prepared_to_the_same_ids(csv, tmp_path):
    log().write_parquet(tmp_path / "log.parquet")
    one = ensure(described(csv), "mine", tmp_path / "a")
    other = ensure(described(tmp_path / "log.parquet"), "mine", tmp_path / "b")
    for name in ("train", "valid", "test"):
        np.testing.assert_array_equal(one.split(name).ids, other.split(name).ids)
        np.testing.assert_array_equal(one.split(name).labels, other.split(name).labels)
        np.testing.assert_array_equal(one.split(name).bags[0].ids, other.split(name).bags[0].ids)
    assert one.schema.fingerprint == other.schema.fingerprint


def test_a_changed_table_is_prepared_again(csv, tmp_path):
    first = ensure(described(csv), "mine", tmp_path)
    log(800).write_csv(csv)
    assert ensure(described(csv), "mine", tmp_path).schema.fingerprint != first.schema.fingerprint


def test_split_by_time_sorts_days_and_keeps_a_day_together(csv):
    raw = load(described(csv, split="time", split_column="day"))
    assert raw.train["day"].max() < raw.valid["day"].min()
    assert raw.valid["day"].max() < raw.test["day"].min()
    assert len(raw.test) == pytest.approx(0.2 * 900, abs=20)


def test_split_by_group_keeps_users_apart(csv):
    raw = load(described(csv, split="group"))
    check(raw, "mine")
    users = [set(frame["user"]) for frame in raw.splits().values()]
    assert sum(map(len, users)) == len(set.union(*users)) == 60


def test_split_by_column_takes_the_users_own(csv, tmp_path):
    names = ["train"] * 500 + ["valid"] * 200 + ["test"] * 200
    log().with_columns(pl.Series("part", names)).write_csv(csv)
    raw = load(described(csv, split="column", split_column="part"))
    assert [len(frame) for frame in raw.splits().values()] == [500, 200, 200]
    log().with_columns(pl.lit("training").alias("part")).write_csv(csv)
    with pytest.raises(DataError, match=r"'part' holds 'training'; expected train, valid or test"):
        load(described(csv, split="column", split_column="part"))


def test_a_random_split_has_exact_counts_and_follows_its_seed(csv):
    one, same = load(described(csv)), load(described(csv))
    other = load(described(csv, split_seed=1))
    assert [len(f) for f in one.splits().values()] == [540, 180, 180]
    assert one.test.equals(same.test)
    assert not one.test.equals(other.test)


def test_a_missing_column_is_named(csv):
    with pytest.raises(DataError, match=r"no column 'seller'; its columns are user, item"):
        load(described(csv, ids=("user", "seller")))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"dataset.path names .*nothing.csv"):
        load(described(tmp_path / "nothing.csv"))


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "log.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"neither .csv, .csv.gz nor .parquet"):
        load(described(tmp_path / "log.xlsx"))


def test_a_number_that_is_none_is_named(csv):
    csv.write_text(csv.read_text().replace("\nu", "\nu,1,cheap,x,2026-01-01,1,0\nu", 1))
    with pytest.raises(DataError, match=r"log.csv cannot be read.*cheap"):
        load(described(csv))


def test_a_conversion_without_a_click_needs_a_policy(csv):
    log().with_columns(pl.lit(1).alias("bought")).write_csv(csv)
    with pytest.raises(DataError, match=r"bought = 1 with click = 0.*unclicked_conversions"):
        load(described(csv))
    zeroed = load(described(csv, unclicked_conversions="zero_conversion"))
    assert (zeroed.train["bought"] <= zeroed.train["click"]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "time"}, "split=time needs split_column"),
        ({"split": "group", "group": None}, "split=group needs group"),
        ({"ids": (), "numbers": (), "lists": ()}, "at least one feature"),
        ({"tasks": (TableTask(name="cvr", label="bought", parent="ctr"),)}, "listed before it"),
        (
            {"tasks": (TableTask(name="a", label="x"), TableTask(name="a", label="y"))},
            "share a name",
        ),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(csv, changes, words):
    with pytest.raises(ValueError, match=words):
        described(csv, **changes)


def test_a_column_named_split_may_cut_the_rows_and_be_a_feature(tmp_path):
    part = [("train", "train", "valid", "test")[i % 4] for i in range(900)]
    log().with_columns(pl.Series("split", part)).write_csv(tmp_path / "log.csv")
    raw = load(
        described(tmp_path / "log.csv", ids=("user", "split"), split="column", split_column="split")
    )
    assert {name: set(frame["split"]) for name, frame in raw.splits().items()} == {
        name: {name} for name in ("train", "valid", "test")
    }
