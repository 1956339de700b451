"""The user's own table: CSV or Parquet, described by one yaml."""

import gzip
import io
import re
import zipfile
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cvrbench.config.dataset import SplitPaths, TableConfig, TableTask
from cvrbench.data.dataset import read_key, vocabulary_file
from cvrbench.data.label_subsampling import label_weights
from cvrbench.data.registry import describe, ensure
from cvrbench.data.sources import table, table_files
from cvrbench.errors import DataError
from cvrbench.metrics.evaluation import counts
from cvrbench.report.figures.runs import description_figure
from cvrbench.report.figures.style import save
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
        "path": path if isinstance(path, tuple | SplitPaths) else str(path),
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


def two(**changes) -> tuple[TableTask, ...]:
    """Two tasks, the second given the first; with `more`, a third such as the changes say."""
    second = {"name": "b", "label": "y", "parent": "a", "joint": "j"}
    if not changes:
        del second["joint"]
    tasks = (TableTask(name="a", label="x"), TableTask(**second))
    if changes.pop("more", False):
        return (*tasks, TableTask(**changes))
    return (tasks[0], TableTask(**{**second, **changes}))


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
    raw = load(described(csv, ids=("user", "day"), split="time", split_column="day"))
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
    with pytest.raises(
        DataError, match=r"'part' holds 'training' in row 1; expected train, valid or test"
    ):
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
    with pytest.raises(DataError, match=r"is none of .parquet, .pq"):
        load(described(tmp_path / "log.xlsx"))


def test_a_number_that_is_none_is_named(csv):
    csv.write_text(csv.read_text().replace("\nu", "\nu,1,cheap,x,2026-01-01,1,0\nu", 1))
    with pytest.raises(
        DataError, match=r"column 'price' holds 'cheap' in row 1; expected a number"
    ):
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
        ({"tasks": two(joint="a")}, "called 'a' as task 'a' is"),
        ({"tasks": two(joint="b")}, "called 'b' as task 'b' is"),
        ({"tasks": (*two(), TableTask(name="a_b", label="z"))}, "called 'a_b' as task 'a_b' is"),
        ({"tasks": two(name="x", label="z", parent="a", joint="j", more=True)}, "as the joint of"),
        ({"tasks": two(label="x")}, "have one label, 'x'"),
        ({"tasks": (TableTask(name="a", label="x", joint="j"),)}, "a joint but no parent"),
        ({"tasks": (TableTask(name="../a", label="x"),)}, "cannot be called '../a'"),
        ({"tasks": (TableTask(name="ctr_best", label="x"),)}, "cannot be called 'ctr_best'"),
        ({"tasks": (TableTask(name="mean", label="x"),)}, "cannot be called 'mean'"),
        ({"ids": ("user", "user")}, "listed twice"),
        ({"ids": ("user", "price")}, "listed twice"),
        ({"ids": ("user", "click")}, "label 'click' is among the features"),
        ({"key": "p_ctr"}, "column that predictions have"),
        ({"ids": ("user", "p_ctcvr")}, "feature 'p_ctcvr' has the name of a prediction"),
        ({"group": "click"}, "a label cannot be the group"),
        ({"hash": {"item_id": 10}}, "hash names 'item_id', which is not listed in ids or lists"),
        ({"clip": {"user": (0, 1)}}, "clip names 'user', which is not listed in numbers"),
        ({"clip": {"price": (1, 0)}}, "bounds of 'price' must be finite and ascend"),
        ({"clip": {"price": (0, float("inf"))}}, "bounds of 'price' must be finite"),
        ({"log1p": ("item",)}, "not listed in numbers"),
        ({"shared": {"price": "item"}}, "shared names 'price', which is not listed in ids or"),
        ({"shared": {"item": "day"}}, "shared names 'day', which is not listed in ids or lists"),
        ({"shared": {"tags": "item", "item": "user"}}, "'tags' must name a column with a voc"),
        ({"shared": {"item": "item"}}, "'item' must name a column with a vocabulary of its own"),
        ({"shared": {"item": "user"}, "hash": {"user": 9}}, "say the same of both in hash"),
        ({"weights": {"user": "w"}}, "not listed in lists"),
        ({"test_from": 3}, "test_from has an effect with split=time alone"),
        (
            {"split": "time", "split_column": "day", "time_format": "%d %H"},
            "tells no year",
        ),
        (
            {"split": "time", "split_column": "day", "time_format": "%Y %d"},
            "a day but no month",
        ),
        ({"time_format": "%Y"}, "time_format has an effect with split=time alone"),
        ({"separator": "ab"}, "must be one character"),
        ({"encoding": "klingon"}, "none that Python knows"),
        ({"path": SplitPaths(train="a", valid="b", test="c")}, "set split=null"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(csv, changes, words):
    with pytest.raises(ValueError, match=words):
        described(**{"path": csv, **changes})


def test_a_column_named_split_may_cut_the_rows_and_be_a_feature(tmp_path):
    part = [("train", "train", "valid", "test")[i % 4] for i in range(900)]
    log().with_columns(pl.Series("split", part)).write_csv(tmp_path / "log.csv")
    raw = load(
        described(tmp_path / "log.csv", ids=("user", "split"), split="column", split_column="split")
    )
    assert {name: set(frame["split"]) for name, frame in raw.splits().items()} == {
        name: {name} for name in ("train", "valid", "test")
    }


ROWS = 400
STARTS = datetime(2021, 9, 1)
MOMENTS = [STARTS + timedelta(hours=13 * k, seconds=k % 60) for k in range(ROWS)]


def timed(values: list | pl.Series, path, **changes) -> TableConfig:
    """Write rows in the order of time, shuffled, with their number as an id."""
    rng = np.random.default_rng(1)
    click = rng.integers(0, 2, ROWS)
    times = pl.Series("t", values) if isinstance(values, list) else values.alias("t")
    frame = pl.DataFrame(
        {"n": np.arange(ROWS), "click": click, "bought": click * rng.integers(0, 2, ROWS)}
    )
    frame = frame.with_columns(times)[rng.permutation(ROWS)]
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    options = {"ids": ("n",), "numbers": (), "lists": (), "group": None}
    return described(path, **{**options, "split": "time", "split_column": "t", **changes})


def in_order(raw: Tables) -> bool:
    """Whether every training row came before every validation row, and these before the test."""
    last = [frame["n"].cast(pl.Int64).max() for frame in raw.splits().values()]
    first = [frame["n"].cast(pl.Int64).min() for frame in raw.splits().values()]
    return last[0] < first[1] and last[1] < first[2]


DAYS = [m.date() for m in MOMENTS]
EAST, WEST = timezone(timedelta(hours=8)), timezone(timedelta(hours=-5))
TIMES = {
    "iso day": [d.isoformat() for d in DAYS],
    "unpadded": [f"{d.year}-{d.month}-{d.day}" for d in DAYS],
    "slashes": [f"{d:%Y/%m/%d}" for d in DAYS],
    "compact": [f"{d:%Y%m%d}" for d in DAYS],
    "iso": [m.isoformat() for m in MOMENTS],
    "blank": [f"{m:%Y-%m-%d %H:%M:%S}" for m in MOMENTS],
    "minutes": [f"{m:%Y/%m/%d %H:%M}" for m in MOMENTS],
    "some fractions": [f"{m:%Y-%m-%d %H:%M:%S}" + ".5" * (k % 2) for k, m in enumerate(MOMENTS)],
    "comma": [f"{m:%Y-%m-%d %H:%M:%S},123" for m in MOMENTS],
    "nanoseconds": [f"{m:%Y-%m-%d %H:%M:%S}.123456789" for m in MOMENTS],
    "zulu": [f"{m:%Y-%m-%dT%H:%M:%SZ}" for m in MOMENTS],
    "mixed zones": [
        m.replace(tzinfo=UTC).astimezone(EAST if k % 2 else WEST).isoformat()
        for k, m in enumerate(MOMENTS)
    ],
    "short zones": [f"{m:%Y-%m-%d %H:%M}+08" for m in MOMENTS],
    "compact times": [f"{m:%Y%m%dT%H%M%S}" for m in MOMENTS],
    "rfc": [f"{m:%a, %d %b %Y %H:%M:%S} +0000" for m in MOMENTS],
    "whole numbers": [str(8 + k) for k in range(ROWS)],
    "unequal fractions": [str(8 + k / 4) for k in range(ROWS)],
    "epochs that float32 cannot tell apart": [str(1_630_000_000 + k) for k in range(ROWS)],
    "spaces": [f" {8 + k} " for k in range(ROWS)],
}


@pytest.mark.parametrize("form", TIMES)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_text_in_one_unambiguous_form_is_cut_by_time(form, suffix, tmp_path):
    assert in_order(load(timed(TIMES[form], tmp_path / f"t{suffix}")))


@pytest.mark.parametrize(
    "times",
    [
        pl.Series(range(ROWS), dtype=pl.UInt16),
        pl.Series(range(ROWS), dtype=pl.Int64) + 2**60,
        pl.Series([k / 3 - 9 for k in range(ROWS)]),
        pl.Series(range(ROWS)).cast(pl.Decimal(20, 2)),
        pl.Series(DAYS),
        pl.Series(MOMENTS).cast(pl.Datetime("ns")),
        pl.Series(MOMENTS).dt.replace_time_zone("Asia/Shanghai"),
        pl.Series(MOMENTS) - STARTS,
        pl.Series(TIMES["iso day"]).cast(pl.Categorical),
        pl.Series(TIMES["iso"]).cast(pl.Enum(TIMES["iso"][::-1])),
    ],
    ids=lambda series: str(series.dtype)[:20],
)
def test_numbers_and_times_of_any_type_are_cut_by_time(times, tmp_path):
    assert in_order(load(timed(times, tmp_path / "t.parquet")))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([f"{d:%m/%d/%Y}" for d in DAYS], "holds '.*/.*/2.*' in row 1.*time_format='%m/%d/%Y'"),
        ([f"{d:%d.%m.%Y}" for d in DAYS], r"time_format='%d.%m.%Y'"),
        ([f"{d:%d}/{d.day % 12 + 1}/2021" for d in DAYS], r"set dataset.time_format='%d/%m/%Y'"),
        ([f"{d:%m%d%Y}" for d in DAYS], r"in row \d+.*time_format='%m%d%Y'"),
        (["03/04/2021"] * ROWS, r"say which.*'%m/%d/%Y' or '%d/%m/%Y'"),
        ([f"{d:%Y年%m月%d日}" for d in DAYS], r"holds '202.*日' in row 1"),
        ([f"{d:%y-%m-%d}" for d in DAYS], r"holds '2.*' in row 1"),
        (["NA" if k == 5 else str(k) for k in range(ROWS)], r"'NA' in row \d+, not whole numbers"),
        ([str(k) if k else "2021-09-01" for k in range(ROWS)], r"holds '2021-09-01' in row \d+"),
        ([f"{d}" + " 10:00" * (k % 2) for k, d in enumerate(DAYS)], "not (days|times)"),
        (["2021-02-30", *TIMES["iso day"][1:]], r"holds '2021-02-30' in row \d+, not days"),
        (TIMES["zulu"][:9] + TIMES["iso"][9:], r"in row \d+"),
        (["low", "mid", "high", "max"] * (ROWS // 4), r"'.*' in row 1; times are numbers"),
        ([None, *range(1, ROWS)], r"have no value there \(first: row \d+\)"),
        ([float("nan"), *map(float, range(1, ROWS))], r"no value there \(first: row \d+\)"),
        ([float("inf"), *map(float, range(1, ROWS))], r"no value there \(first: row \d+\)"),
        ([k > 9 for k in range(ROWS)], r"holds Boolean, which has no order|holds 'true'|'false'"),
        ([[k] for k in range(ROWS)], r"which has no order in time"),
        ([str(k).encode() for k in range(ROWS)], r"holds Binary"),
        ([m.time() for m in MOMENTS], r"times of day without their days"),
        ([int(f"{d:%m%d%Y}") for d in DAYS], r"looks like a day.*time_format='%m%d%Y'"),
        ([int(f"{d:%d%m%Y}") for d in DAYS], r"looks like a day.*time_format='%d%m%Y'"),
        ([f"00{d:%y-%m-%d}" for d in DAYS], r"years written with two digits"),
        ([k % 9 and 1_630_000_000 + k for k in range(ROWS)], r"holds 0 beside times such as 16"),
        ([(1_630_000_000 + k) * 1000 ** (k % 2) for k in range(ROWS)], r"beside.*one unit"),
        ([m if k % 7 else datetime(1970, 1, 1) for k, m in enumerate(MOMENTS)], r"holds 1970-01"),
        ([m if k % 7 else date(9999, 12, 31) for k, m in enumerate(DAYS)], r"holds 9999-12-31"),
    ],
)
def test_times_that_can_be_read_in_two_ways_or_none_are_refused(values, words, tmp_path):
    with pytest.raises(DataError, match=words):
        load(timed(values, tmp_path / "t.parquet"))
    if isinstance(values[0], str):
        with pytest.raises(DataError, match=words):
            load(timed(values, tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ([f"{d:%m/%d/%Y}" for d in DAYS], "%m/%d/%Y"),
        ([f"{m:%d.%m.%Y %H:%M:%S}" for m in MOMENTS], "%d.%m.%Y %H:%M:%S"),
        ([f"{m:%m/%d/%y %I:%M:%S %p}" for m in MOMENTS], "%m/%d/%y %I:%M:%S %p"),
        ([f"{d:%Y年%m月%d日}" for d in DAYS], "%Y年%m月%d日"),
        ([int(f"{d:%Y%m%d}") for d in DAYS], "%Y%m%d"),
        ([int(f"{d:%m%d%Y}") for d in DAYS], "%m%d%Y"),
    ],
)
def test_a_format_makes_times_of_text(values, form, tmp_path):
    assert in_order(load(timed(values, tmp_path / "t.parquet", time_format=form)))
    with pytest.raises(DataError, match=r"not as dataset.time_format='%Y %d %m' says"):
        load(timed(values, tmp_path / "t.parquet", time_format="%Y %d %m"))
    with pytest.raises(DataError, match=r"'year %Y' is no format of times|='year %Y' says"):
        load(timed(values, tmp_path / "t.parquet", time_format="year %Y"))


@pytest.mark.parametrize(
    ("values", "valid_from", "test_from"),
    [
        (list(range(ROWS)), 200, 300),
        ([str(k) for k in range(ROWS)], "200", 300),
        (DAYS, f"{DAYS[200]}", f"{DAYS[300]}"),
        (TIMES["iso"], TIMES["iso"][200], TIMES["blank"][300]),
        (TIMES["zulu"], TIMES["zulu"][200], f"{DAYS[300]}"),
        (pl.Series(MOMENTS).dt.replace_time_zone("Asia/Shanghai"), TIMES["iso"][200], "2022-03-01"),
    ],
)
def test_rows_are_cut_where_the_user_says(values, valid_from, test_from, tmp_path):
    keys = {"valid_from": valid_from, "test_from": test_from}
    stream = table.load(timed(values, tmp_path / "t.parquet", **keys))
    raw = Tables.of(stream)
    assert in_order(raw)
    assert min(map(int, raw.valid["n"])) in {199, 200}
    assert abs(len(raw.test) - 100) < 70
    assert "validation from t = " in stream.split[0]
    assert "asked" not in stream.split[1]
    with pytest.raises(DataError, match=r"test_from='soon' is no value of column 't'"):
        load(timed(values, tmp_path / "t.parquet", test_from="soon"))
    some = load(timed(values, tmp_path / "t.parquet", test_from=test_from))
    assert in_order(some)
    assert len(some.valid) == pytest.approx(0.2 * ROWS, abs=3)


def test_an_hour_that_the_clock_repeats_is_a_boundary_and_one_that_it_skips_is_none(tmp_path):
    times = pl.Series(MOMENTS).dt.replace_time_zone("UTC").dt.convert_time_zone("America/New_York")
    assert in_order(load(timed(times, tmp_path / "t.parquet", test_from="2021-11-07 01:30")))
    with pytest.raises(DataError, match=r"test_from='2022-03-13 02:30' is no value of column 't'"):
        load(timed(times, tmp_path / "t.parquet", test_from="2022-03-13 02:30"))


def labelled(path, click: pl.Series, bought: pl.Series, **changes) -> TableConfig:
    frame = pl.DataFrame({"n": range(len(click)), "click": click, "bought": bought})
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    options = {"ids": ("n",), "numbers": (), "lists": (), "group": None}
    return described(path, **{**options, **changes})


CLICK = pl.Series([k % 2 for k in range(ROWS)])
BOUGHT = pl.Series([int(k % 4 == 1) for k in range(ROWS)])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    "write",
    [
        lambda s: s,
        lambda s: s.cast(pl.Boolean),
        lambda s: s.cast(pl.Float64),
        lambda s: s.cast(pl.Decimal(9, 2)),
        lambda s: s.cast(pl.String),
        lambda s: s.cast(pl.Float64).cast(pl.String),
        lambda s: s.cast(pl.Boolean).cast(pl.String).str.to_titlecase(),
        lambda s: s.cast(pl.String).cast(pl.Categorical),
    ],
)
def test_labels_are_taken_as_they_are_written(write, suffix, tmp_path):
    """As 0/1, 0.0/1.0, false/true, and a conversion that is absent where nobody clicked."""
    bought = write(BOUGHT)
    hidden = bought.set(CLICK == 0, None)
    for column in (bought, hidden):
        raw = load(labelled(tmp_path / f"l{suffix}", write(CLICK), column))
        rows = pl.concat(raw.splits().values()).sort(pl.col("n").cast(pl.Int64))
        assert rows["click"].to_list() == CLICK.to_list()
        assert rows["bought"].to_list() == BOUGHT.to_list()


def test_a_value_can_count_as_positive(tmp_path):
    words = pl.Series(["view", "Click", "view", "cart", None])
    click = pl.Series(words.to_list() * 80)
    tasks = (
        TableTask(name="ctr", label="click", positive="Click"),
        TableTask(name="cvr", label="bought", positive=5),
    )
    stars = pl.Series([5, 4, 3, 2, 1] * 80)
    config = labelled(tmp_path / "l.csv", click, stars, tasks=tasks, missing_labels="drop")
    raw = load(config)
    rows = pl.concat(raw.splits().values()).sort(pl.col("n").cast(pl.Int64))
    assert rows["click"].to_list() == [0, 1, 0, 0] * 80
    assert rows["bought"].to_list() == [1, 0, 0, 0] * 80
    assert raw.accounting == {"read": 400, "dropped: click absent": 80}


@pytest.mark.parametrize(
    ("values", "positive", "expected"),
    [
        (["True", "False", "x"], True, [1, 0, 0]),
        (["1", "0", "1.0"], True, [1, 0, 1]),
        ([True, False, True], 1, [1, 0, 1]),
        (["5.0", "3", " 5"], 5, [1, 0, 1]),
        ([5.0, 3.0, 5.0], 5, [1, 0, 1]),
        (["no", "yes", "Yes"], "yes", [0, 1, 0]),
    ],
)
def test_a_positive_value_is_the_same_however_it_is_written(values, positive, expected, tmp_path):
    tasks = (TableTask(name="ctr", label="click", positive=positive),)
    frame = pl.Series(values * 20)
    config = labelled(tmp_path / "l.parquet", frame, pl.Series([0] * 60), tasks=tasks)
    rows = pl.concat(load(config).splits().values()).sort(pl.col("n").cast(pl.Int64))
    assert rows["click"].to_list() == expected * 20


@pytest.mark.parametrize(
    ("click", "words"),
    [
        ([1, 0, 2], r"'click' holds 2 in row 3; a label is 0 or 1.*positive: VALUE"),
        ([1, 0, -1], r"holds -1 in row 3"),
        ([1.0, 0.0, 0.5], r"holds 0.5 in row 3"),
        (["yes", "no", "no"], r"holds 'yes' in row 1"),
        ([1, None, 1], r"holds None in row 2; the label is absent; set dataset.missing_labels"),
        ([[1], [0], [1]], r"is of type List"),
        ([date(2021, 1, 1)] * 3, r"is of type Date"),
    ],
)
def test_other_labels_are_refused(click, words, tmp_path):
    with pytest.raises(DataError, match=words):
        load(labelled(tmp_path / "l.parquet", pl.Series(click), pl.Series([0, 0, 0])))


def written(frame: pl.DataFrame, how: str) -> bytes:
    text = frame.write_csv(separator="\t" if ".tsv" in how else ",").encode()
    if how.endswith(".gz"):
        return gzip.compress(text)
    if how.endswith(".zip"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.csv", text)
            archive.writestr("__MACOSX/._inner.csv", b"x")
        return file.getvalue()
    return text


def rows_of(config: TableConfig) -> pl.DataFrame:
    return pl.concat(load(config).splits().values()).sort("user", "item", "price")


@pytest.mark.parametrize(
    "name",
    ["l.csv", "L.CSV", "l.txt", "l.tsv", "l.tab", "l.csv.gz", "l.tsv.gz", "l.csv.zip", "log[1].csv",
     "a b (1) = #~'ü用户.csv", "l.pq", "l.parq", "log[1].parquet", "*.parquet", "{a,b}.parquet"],
)  # fmt: skip
def test_one_file_is_read_whatever_its_name(name, tmp_path):
    frame, other = log(), log(200)
    for decoy in ("log1.csv", "log1.parquet", "a.parquet", "l"):
        other.write_parquet(tmp_path / decoy)
    if name.endswith((".parquet", ".pq", ".parq")):
        frame.write_parquet(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(written(frame, ".tsv" if name.endswith(".tab") else name))
    expected = rows_of(described(write_parquet(frame, tmp_path / "expected.parquet")))
    assert rows_of(described(tmp_path / name)).equals(expected)
    assert list(load(described(tmp_path / name)).sources) == [name]


def write_parquet(frame: pl.DataFrame, path):
    frame.write_parquet(path)
    return path


@pytest.mark.parametrize(
    ("keys", "encode"),
    [
        ({"separator": ";"}, lambda f: f.write_csv(separator=";").encode()),
        ({"separator": "|", "list_separator": " "}, lambda f: f.write_csv(separator="|").encode()),
        ({"encoding": "utf-16"}, lambda f: f.write_csv().encode("utf-16")),
        ({"encoding": "gb18030"}, lambda f: f.write_csv().encode("gb18030")),
        ({}, lambda f: b"\xef\xbb\xbf" + f.write_csv().encode()),
        ({}, lambda f: b"\r\n\n" + f.write_csv(line_terminator="\r\n").encode() + b"\r\n" * 3),
        ({}, lambda f: f.write_csv().rstrip("\n").encode()),
        ({}, lambda f: f.write_csv(quote_style="always").encode()),
        ({}, lambda f: gzip.compress(f.write_csv().encode())),
    ],
)
def test_delimited_text_is_read_as_it_is_written(keys, encode, tmp_path, monkeypatch):
    frame = log().with_columns(
        user=pl.col("user")
        + pl.Series(["", ",", '"', "\n", "é", "用户", ";", " "] * 112 + [""] * 4)
    )
    if keys.get("list_separator") == " ":
        frame = frame.with_columns(pl.col("tags").str.replace_all("|", " ", literal=True))
    config = {"list_separator": keys.get("list_separator", "|")}
    expected = rows_of(described(write_parquet(frame, tmp_path / "e.parquet"), **config))
    (tmp_path / "l.csv").write_bytes(encode(frame))
    for size in (1 << 24, 7000):
        monkeypatch.setattr(table_files, "BLOCK_BYTES", size)
        assert rows_of(described(tmp_path / "l.csv", **keys)).equals(expected)


def test_the_key_of_every_test_row_is_kept_as_it_is(tmp_path):
    frame = log().with_columns(request=pl.Series([f"r{k}" for k in range(900)]))
    config = described(write_parquet(frame, tmp_path / "l.parquet"), key="request")
    dataset = ensure(config, "mine", tmp_path)
    (key,) = read_key(dataset).values()
    prices = dict(zip(frame["request"], frame["price"], strict=True))
    scale = dataset.schema.numeric[0]
    expected = [(prices[k] - scale.mean) / scale.std for k in key]
    np.testing.assert_allclose(dataset.test.numeric[:, 0], expected, atol=1e-6)
    assert key.name == "request"
    both = frame.with_columns(request=pl.concat_list("item", pl.int_range(900)))
    lists = described(write_parquet(both, tmp_path / "lists.parquet"), key="request")
    (of_lists,) = read_key(ensure(lists, "lists", tmp_path)).values()
    assert of_lists.dtype == pl.List(pl.Int64)
    assert len(set(map(tuple, of_lists.to_list()))) == len(of_lists) > 100
    assert len(set(key)) == len(dataset.test)
    assert read_key(ensure(described(config.path), "mine", tmp_path)) == {}


def test_a_table_whose_ids_are_all_rare_is_drawn(tmp_path):
    config = described(write_parquet(log(), tmp_path / "l.parquet"), min_count=10**6)
    dataset = ensure(config, "mine", tmp_path)
    parts = (dataset.train, dataset.valid, dataset.test)
    found = {part.name: counts(dataset.schema, part.labels) for part in parts}
    drawn = description_figure(describe(dataset, found))
    assert save(drawn, tmp_path / "l.png").is_file()


def write_parts(frame: pl.DataFrame, folder, how: str) -> None:
    """Write a table as a folder of parts, some of them empty, with files that are no parts."""
    start = 0
    for number, size in enumerate([0, 100, 350, 0, 449, 1]):
        part, place = frame.slice(start, size), folder / f"day={number}"
        start += size
        place.mkdir(parents=True)
        if how == "parquet":
            part.write_parquet(place / f"part-{number}.snappy.parquet")
        else:
            (place / f"part-{number}.csv").write_bytes(written(part, how))
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.crc").write_bytes(b"x")
    (folder / "_temporary").mkdir()
    log(9).write_parquet(folder / "_temporary" / "part-9.parquet")


@pytest.mark.parametrize("how", ["csv", "parquet"])
def test_a_folder_of_parts_is_read_as_one_table(how, tmp_path):
    frame = log().rename({"day": "date"})
    write_parts(frame, tmp_path / "days", how)
    whole = write_parquet(frame, tmp_path / "l.parquet")
    for split in ("random", "time", "group"):
        keys = {"split": split, "split_column": "date" if split == "time" else None}
        one, raw = load(described(whole, **keys)), load(described(tmp_path / "days", **keys))
        for name, rows in raw.splits().items():
            assert rows.equals(one.splits()[name]), (split, name)
    assert len(raw.sources) == 6
    assert {name.split("/")[0] for name in raw.sources} == {f"day={k}" for k in range(6)}
    log(9).write_parquet(tmp_path / "days" / "day=0" / "x.parquet")
    with pytest.raises(DataError, match=r"as its folder's name has|names Parquet and text"):
        load(described(tmp_path / "days", split="time", split_column="day"))


def test_columns_in_the_names_of_folders_are_columns(tmp_path):
    rows, folder = log().drop("day"), tmp_path / "p"
    for k, day in enumerate(["2021-09-01", "2021-09-02", "2021-10-01", "2022-01-01"]):
        place = folder / f"day={day}" / f"shop=a%2Fb {k}"
        place.mkdir(parents=True)
        rows.slice(k * 225, 225).write_parquet(place / "0.parquet")
    config = described(folder, ids=("user", "shop"), split="time", split_column="day")
    raw = load(replace(config, valid_from="2021-10-01", test_from="2022-01-01"))
    assert [set(frame["shop"]) for frame in raw.splits().values()] == [
        {"a/b 0", "a/b 1"},
        {"a/b 2"},
        {"a/b 3"},
    ]


@pytest.mark.parametrize("split", ["random", "group", "time"])
def test_files_that_are_split_already_stay_split(split, tmp_path):
    for k, name in enumerate(("a", "b", "c")):
        log().slice(300 * k, 300).write_csv(tmp_path / f"{name}.csv")
    a, b, c = (str(tmp_path / f"{name}.csv") for name in "abc")
    full = load(described(SplitPaths(train=a, valid=b, test=c), split=None))
    assert [len(frame) for frame in full.splits().values()] == [300, 300, 300]
    assert full.sources.keys() == {"train/a.csv", "valid/b.csv", "test/c.csv"}
    keys = {"split": split, "split_column": "day" if split == "time" else None}
    half = load(described(SplitPaths(train=(a, b), test=c), **keys))
    assert len(half.test) == 300
    assert len(half.train) + len(half.valid) == 600
    assert len(half.valid) == pytest.approx(120, abs=30)
    with pytest.raises(DataError, match=r"names .*a.csv twice"):
        load(described(SplitPaths(train=(a, a), test=c), split=None))


def test_files_of_one_name_in_two_folders_are_both_watched(tmp_path):
    for name, rows in (("a", log()), ("b", log(300))):
        (tmp_path / name).mkdir()
        rows.write_parquet(tmp_path / name / "log.parquet")
    config = described(tuple(str(tmp_path / name / "log.parquet") for name in "ab"))
    before = ensure(config, "mine", tmp_path / "data").schema.fingerprint
    assert len(table.load(config).sources) == 2
    log(800).write_parquet(tmp_path / "a" / "log.parquet")
    assert ensure(config, "mine", tmp_path / "data").schema.fingerprint != before


def test_links_are_followed_and_no_row_counts_twice_unsaid(tmp_path):
    folder, other = tmp_path / "log", tmp_path / "elsewhere"
    for place in (folder / "_day=1", other):
        place.mkdir(parents=True)
    log().write_parquet(folder / "_day=1" / "0.parquet")
    log(300).write_parquet(other / "1.parquet")
    (folder / "linked").symlink_to(other)
    assert sum(map(len, load(described(folder)).splits().values())) == 1200
    (folder / "copy.parquet").write_bytes((other / "1.parquet").read_bytes())
    assert "linked/1.parquet as copy.parquet" in table.load(described(folder)).split[-1]
    paths = SplitPaths(train=str(folder / "copy.parquet"), test=str(other / "1.parquet"))
    with pytest.raises(DataError, match=r"same bytes as .*another split"):
        table.load(described(paths))
    for link in (Path.symlink_to, Path.hardlink_to):
        link(latest := folder / "latest.parquet", other / "1.parquet")
        with pytest.raises(DataError, match=r"twice \(the second time as .*its rows would count"):
            load(described(folder))
        latest.unlink()


@pytest.mark.parametrize(
    "types",
    [
        [pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns")],
        [pl.Datetime(unit, "Asia/Tokyo") for unit in ("ms", "us", "ns")],
        [pl.Int64, pl.Float64, pl.Float32],
        [pl.Decimal(9, 0)],
        [pl.Decimal(9, 2)],
        [pl.Decimal(9, 4)],
    ],
)
def test_a_value_is_one_id_and_one_number_in_every_type(types, tmp_path):
    """Whatever the unit of a part's times, and the digits that its type has."""
    whole = pl.Series([10, 7, 0, 20, -3] * 180)
    for number, dtype in enumerate(types):
        is_time = isinstance(dtype, pl.Datetime)
        values = (whole * 86_400_000).cast(pl.Datetime("ms")) if is_time else whole
        values = values.dt.replace_time_zone(dtype.time_zone) if is_time else values
        frame = log().with_columns(x=values.cast(dtype), y=values.cast(dtype))
        frame.with_columns(z=pl.concat_list("x")).write_parquet(tmp_path / f"{number}.parquet")
    config = described(tmp_path, ids=("x",), numbers=("y",), lists=("z",))
    rows = pl.concat(load(config).splits().values())
    assert len(rows) == 900 * len(types)
    for column in (rows["x"], rows["z"].list.first(), rows["y"]):
        assert set(column.value_counts()["count"]) == {180 * len(types)}
    if not isinstance(types[0], pl.Datetime):
        assert set(rows["x"]) == {"10", "7", "0", "20", "-3"}


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float64, pl.Decimal(9, 2), pl.String])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_number_that_stands_for_none_does_so_in_every_type(dtype, suffix, tmp_path):
    frame = log().with_columns(price=pl.col("item").cast(dtype))
    path = tmp_path / f"l{suffix}"
    frame.write_csv(path) if suffix == ".csv" else frame.write_parquet(path)
    rows = load(described(path, null_values=("7", "NA", "inf")))
    prices = pl.concat(rows.splits().values())["price"]
    assert prices.null_count() == (log()["item"] == 7).sum()
    assert 7 not in prices.to_list()


@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime("ms"), pl.Datetime("ns", "UTC")])
def test_a_day_and_its_midnight_are_one_number(dtype, tmp_path):
    frame = log().with_columns(price=pl.col("day").cast(dtype))
    rows = load(described(write_parquet(frame, tmp_path / "l.parquet")))
    found = pl.concat(rows.splits().values())["price"]
    first = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert (found.min(), found.max()) == (first * 1e6, (first + 89 * 86400) * 1e6)


@pytest.mark.parametrize("value", [0.1, 1e9 / 3, -1e-9])
def test_a_constant_number_has_no_deviation_of_rounding_errors(value, tmp_path):
    frame = log().with_columns(price=pl.when(pl.col("item") > 3).then(value))
    dataset = ensure(described(write_parquet(frame, tmp_path / "l.parquet")), "mine", tmp_path)
    scale = dataset.schema.numeric[0]
    assert (scale.mean, scale.std) == (value, 1.0)
    assert not dataset.train.numeric[:, 0].any()


def test_numbers_whose_differences_floats_cannot_hold_are_refused(tmp_path):
    frame = log().with_columns(price=pl.Series(range(900)) + 2**62)
    with pytest.raises(DataError, match="differences are lost"):
        ensure(described(write_parquet(frame, tmp_path / "l.parquet")), "mine", tmp_path)


def test_lists_that_are_all_empty_are_prepared(tmp_path):
    frame = log().with_columns(tags=pl.lit("|"))
    assert len(ensure(described(write_parquet(frame, tmp_path / "l.pq")), "mine", tmp_path).train)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: {"a.csv": b"", "b.csv": f}, "a.csv is empty"),
        (lambda f: {"a.csv": f, "b.csv": f.replace(b"price", b"cost")}, r"b.csv has no column 'pr"),
        (lambda f: {"a.csv": f.replace(b"tags", b"item")}, r"two columns are called 'item'"),
        (lambda f: {"a.csv": f[:-1] + b",7\n"}, r"a.csv, line 901: 8 values.*header has 7"),
        (lambda f: {"a.csv": f[: f.rindex(b",")]}, r"a.csv, line 901: 6 values"),
        (lambda f: {"a.csv": f.replace(b"\nu", b"\n\nu", 3)}, r"line 2: 1 values"),
        (lambda f: {"a.csv": f.replace(b",x,", b',"x,')}, "a.csv"),
        (lambda f: {"a.csv": b"u\xffser" + f[4:]}, r"dataset.encoding=latin-1"),
        (lambda f: {"a.csv": f + b'\xe4\xf6,1,2,"x",2021-01-01,1,0\n'}, r"encoding=latin-1"),
        (lambda f: {"a.csv": f.decode().encode("utf-16")}, "set dataset.encoding=utf-16"),
        (lambda f: {"a.csv": f.replace(b",", b";")}, r"no column 'user'.*its columns are user;"),
        (lambda f: {"a.csv.gz": gzip.compress(f)[:-40]}, "damaged or truncated"),
        (lambda f: {"a.parquet": b"PAR1" + f}, "a.parquet cannot be read"),
        (lambda f: {"a.csv": f, "b.parquet": f}, "names Parquet and text"),
        (lambda f: {"a.csv": f, "readme.md": f}, "readme.md is none of"),
        (lambda f: {"a.csv": f + f}, r"a.csv, line 902: the first line comes again"),
        (lambda f: {"_x": f}, "which holds no file"),
        (lambda f: {"a.csv": f.splitlines(keepends=True)[0]}, "a.csv holds no rows"),
    ],
)
def test_a_folder_that_cannot_be_read_whole_is_refused(make, words, tmp_path):
    for name, content in make(log().write_csv().encode()).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        load(described(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "time", "split_column": "one"}, "column 'one' has 1 value, and rows of one"),
        ({"split": "time", "split_column": "two"}, "valid split would be .* 'two' has 2 values"),
        ({"split": "group", "group": "one"}, "'one' has 1 value.*dataset.split=random"),
    ],
)
def test_values_that_cannot_be_parted_are_named(changes, words, tmp_path):
    frame = log().with_columns(one=7, two=pl.col("item") % 2)
    with pytest.raises(DataError, match=words):
        load(described(write_parquet(frame, tmp_path / "l.parquet"), **changes))


def test_a_folder_says_each_thing_once_and_names_of_splits_are_remarked(tmp_path):
    for place in ("train", "test/more"):
        (tmp_path / place).mkdir(parents=True)
        log(300).write_parquet(tmp_path / place / f"{len(place)}.parquet")
    (said,) = [w for w in table.load(described(tmp_path)).split if "train and test" in w]
    assert "dataset.path={train: ..., test: ...}" in said
    (tmp_path / "k=1" / "k=2").mkdir(parents=True)
    log(300).write_parquet(tmp_path / "k=1" / "k=2" / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet is in two folders that say what 'k' is"):
        load(described(tmp_path))


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        (pl.Int64, pl.Int32, True),
        (pl.Int64, pl.Float64, True),
        (pl.String, pl.Categorical, True),
        (pl.Int64, pl.String, False),
        (pl.Int64, pl.Boolean, False),
        (pl.Float64, pl.Decimal(9, 2), False),
    ],
)
def test_a_column_has_one_type_in_all_files(one, other, fits, tmp_path):
    for name, dtype, rows in (("a", one, log()), ("b", other, log(300))):
        flag = pl.col("click").cast(pl.String) if dtype == pl.Categorical else pl.col("click")
        rows.with_columns(flag=flag.cast(dtype)).write_parquet(tmp_path / f"{name}.parquet")
    log(5).with_columns(flag=None).write_parquet(tmp_path / "c.parquet")
    config = described(tmp_path, ids=("user", "flag"))
    if fits:
        known = pl.concat(load(config).splits().values())["flag"].drop_nulls()
        assert set(known) == {"0", "1"}
    else:
        with pytest.raises(DataError, match=r"'flag' is .* in .*a.parquet and .* in .*b.parquet"):
            load(config)


def test_numbers_are_clipped_and_logarithms_taken(tmp_path):
    frame = log().with_columns(a=pl.col("price") * 1e300, b=pl.col("price"), c=pl.lit(float("inf")))
    config = described(
        write_parquet(frame, tmp_path / "l.parquet"),
        ids=("user", "price"),
        numbers=("a", "b", "c"),
        clip={"a": (0, 50), "c": (0, 7)},
        log1p=("b", "c"),
        buckets={"price": (0.25, 0.5)},
    )
    rows = pl.concat(load(config).splits().values()).sort("b")
    expected = frame.sort("b")
    np.testing.assert_allclose(rows["b"], np.log1p(expected["b"]))
    assert rows["a"].max() == 50
    assert set(rows["c"]) == {np.log1p(7.0)}
    assert set(rows["price"]) == {"[-inf, 0.25)", "[0.25, 0.5)", "[0.5, inf)"}
    counts = expected["b"].to_numpy()
    assert (rows["price"] == "[0.25, 0.5)").sum() == ((counts >= 0.25) & (counts < 0.5)).sum()
    bad = write_parquet(frame.with_columns(b=pl.lit(-3.0)), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"'b' holds -3.0 in row 1; log\(1 \+ x\) has none"):
        load(replace(config, path=str(bad)))


def test_hidden_labels_and_weights_stand_beside_the_training_rows(tmp_path):
    """Where a label is absent it weighs 0, and so do those below it; others as the column says."""
    random = np.random.default_rng(1)
    frame = log().with_columns(
        row=np.arange(900), w=random.integers(0, 4, 900) / 2, gone=random.random(900) < 0.3,
        lost=random.random(900) < 0.1,
    )  # fmt: skip
    frame = frame.with_columns(
        click=pl.when("lost").then(None).otherwise("click"),
        bought=pl.when("gone").then(None).otherwise("bought"),
    )
    frame.write_parquet(tmp_path / "log.parquet")
    config = described(
        tmp_path / "log.parquet", ids=("row",), key="row", weight="w", missing_labels="hide"
    )
    dataset = ensure(config, "mine", tmp_path)
    known = pl.col("click").is_not_null()
    known_below = known & (pl.col("bought").is_not_null() | (pl.col("click") == 0))
    rows = frame.with_columns(a=known, b=known_below)
    ids = pl.read_parquet(vocabulary_file(dataset.path, "row")).select("id", row="value")
    of = pl.DataFrame({"id": dataset.train.ids[:, 0]}).join(ids, on="id", maintain_order="left")
    mine = rows[of["row"].cast(pl.Int64).to_list()]
    assert dataset.train.weights[:, 0].tolist() == (mine["w"] * mine["a"]).to_list()
    assert dataset.train.weights[:, 1].tolist() == (mine["w"] * mine["b"]).to_list()
    assert dataset.train.labels[:, 0].tolist() == mine["click"].fill_null(0).to_list()
    bought = pl.when("b").then("bought").otherwise(0).fill_null(0)
    assert dataset.train.labels[:, 1].tolist() == mine.select(bought).to_series().to_list()
    rest = rows.filter(~pl.col("row").is_in(mine["row"].to_list()))
    assert len(dataset.valid) + len(dataset.test) == rest["b"].sum()
    account = dataset.manifest["accounting"]
    assert account["a label is absent, hidden in training"] == (~mine["b"]).sum()
    assert account["dropped: a label is absent in validation or test"] == (~rest["b"]).sum()
    weighed = mine.filter(pl.col("w") > 0)
    found = counts(dataset.schema, dataset.train.labels, dataset.train.weights)
    assert found["ctr"]["rows"] == weighed["a"].sum()
    assert found["ctcvr"]["rows"] == weighed["b"].sum()
    own, labels = dataset.train.weights, dataset.train.labels
    given = label_weights(dataset.schema, labels, 1, share=1, seed=0, given=own)
    np.testing.assert_array_equal(given, own / 0.5)  # in units of the smallest
    drawn = label_weights(dataset.schema, labels, 1, share=0.5, seed=0, given=own)
    np.testing.assert_array_equal(drawn[:, 0], given[:, 0])
    assert (drawn[own == 0] == 0).all()
    below = (labels[:, 0] == 1) & (labels[:, 1] == 1) & (own[:, 1] > 0)
    assert (drawn[below, 1] > 0).sum() == round(0.5 * below.sum())
    assert dataset.valid.weights is None


def test_repeated_keys_and_rows_of_two_splits_are_remarked(tmp_path):
    """As many as polars counts."""
    frame = log().with_columns(key=pl.Series(np.arange(900) % 890)).drop("price")
    train, test = frame[:600], pl.concat([frame[600:], frame[100:107]])
    train.write_parquet(tmp_path / "a.parquet")
    test.write_parquet(tmp_path / "b.parquet")
    paths = SplitPaths(train=str(tmp_path / "a.parquet"), test=str(tmp_path / "b.parquet"))
    config = described(paths, numbers=(), split=None, key="key")
    remarks = ensure(config, "mine", tmp_path).manifest["remarks"]
    assert f"{len(frame) + 7 - 890} rows have a 'key' that a row before them has" in remarks
    read = frame.drop("day").columns
    both = test.join(train.unique(read), on=read, how="semi", nulls_equal=True)
    said = [remark for remark in remarks if "of test equal a row of train" in remark]
    assert len(both) >= 5  # those of the seven that validation did not take
    assert said
    assert int(said[0].split()[0]) <= len(both)


def test_zst_is_not_unpacked_beyond_what_a_log_is(tmp_path):
    text = log().write_csv().encode()
    log().write_csv(tmp_path / "log.csv.zst", compression="zstd")
    packed = (tmp_path / "log.csv.zst").read_bytes()
    assert len(text) <= table_files._zst_size(packed) <= len(text) + (1 << 17)
    two = packed + b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + packed  # a skipped frame between
    assert table_files._zst_size(two) == 2 * table_files._zst_size(packed)
    zeros = pl.DataFrame({"a": ["0" * (1 << 20)] * 300})
    zeros.write_csv(tmp_path / "zeros.csv.zst", compression="zstd")
    with pytest.raises(DataError, match=r"unpacks to 0.3 GB or more from .* unpack it yourself"):
        load(described(tmp_path / "zeros.csv.zst"))


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (b"PK\x03\x04rest", "is a zip archive, not text; rename it to end in .zip"),
        (b"PAR1rest", "is Parquet, not text; rename it to end in .parquet"),
        (b"\x28\xb5\x2f\xfdrest", "is packed by zstd, not text; rename it"),
    ],
)
def test_a_file_of_another_kind_that_is_named_csv_is_told_by_its_first_bytes(
    begin, words, tmp_path
):
    (tmp_path / "log.csv").write_bytes(begin)
    with pytest.raises(DataError, match=words):
        load(described(tmp_path / "log.csv"))


@pytest.mark.parametrize("value", [-1.0, None, float("inf"), float("nan"), 1e-9, 1e300])
def test_a_weight_is_a_number_that_is_not_negative(value, tmp_path):
    path = write_parquet(log().with_columns(w=pl.lit(value)), tmp_path / "l.parquet")
    with pytest.raises(DataError, match=r"column 'w' holds .* in row 1; a weight is 0 or between"):
        load(described(path, weight="w"))


def test_buckets_of_a_number_are_quantiles_of_the_training_rows(tmp_path):
    path = write_parquet(log().with_columns(same=pl.lit(1)), tmp_path / "l.parquet")
    config = described(path, ids=("price", "item"), numbers=(), buckets={"price": 4, "item": 50})
    stream = table.load(config)
    raw = Tables.of(stream)
    drawn = load(replace(config, ids=("user",), numbers=("price",), buckets={})).train["price"]
    counts_of = raw.train["price"].value_counts(name="n")
    assert sorted(counts_of["n"]) == [135, 135, 135, 135]
    bounds = next(field.bounds for field in stream.fields if field.name == "price")
    assert bounds == tuple(np.sort(drawn)[[135, 270, 405]])
    assert raw.train["item"].n_unique() == 20  # fewer values than buckets: one each
    with pytest.raises(DataError, match="'same' has too few different numbers in the training"):
        load(replace(config, ids=("same",), buckets={"same": 3}))


@pytest.mark.parametrize("scale", ["standardised", "raw"])
def test_vectors_are_as_numpy_standardises_them(scale, tmp_path):
    """Lists, fixed-size lists and text; absent ones are the mean of the training rows, or zeros."""
    found = np.random.default_rng(0).normal(3, 2, (900, 3)).astype(np.float32)
    found[:, 2] = 7  # constant
    absent = np.arange(900) % 5 == 0
    vectors = pl.Series("v", found, dtype=pl.Array(pl.Float32, 3)).set(pl.Series(absent), None)
    text = vectors.cast(pl.List(pl.String)).list.join(", ")
    frame = log().with_columns(
        v=vectors, w=vectors.cast(pl.List(pl.Float64)), text="[" + text + "]"
    )
    frame.write_parquet(tmp_path / "log.parquet")
    config = described(
        tmp_path / "log.parquet", vectors=("v", "w", "text"), vector_scale=scale, key="row"
    )
    frame.with_row_index("row").write_parquet(tmp_path / "log.parquet")
    dataset = ensure(config, "mine", tmp_path)
    rows = load(config).train["price"].to_numpy()
    order = [int(np.flatnonzero(frame["price"].to_numpy() == price)[0]) for price in rows]
    mine, gone = found[order].astype(np.float64), absent[order]
    mean, std = mine[~gone].mean(axis=0), mine[~gone].std(axis=0)
    mean, std = (mean, np.where(std == 0, 1, std)) if scale != "raw" else (0, 1)
    expected = np.where(gone[:, None], 0, (mine - mean) / std)
    for first in (1, 4, 7):
        np.testing.assert_allclose(dataset.train.numeric[:, first : first + 3], expected, atol=1e-5)
    assert [v.width for v in dataset.schema.vectors] == [3, 3, 3]
    assert [f.kind for f in describe(dataset, {}).fields][-3:] == ["vector of 3"] * 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1.0, 2.0]] * 899 + [[1.0]], r"holds \[1.0\] in row 900; it has 1 numbers, and .* 2"),
        ([[1.0, float("nan")]] * 900, "a vector holds finite numbers alone"),
        ([[1.0, None]] * 900, "a vector holds finite numbers alone"),
        ([[1e300]] * 900, "a vector holds finite numbers alone"),
        ([[]] * 900, "it has 0 numbers"),
        ([None] * 900, "expected lists of numbers|has no vector in the training rows"),
        (["1,2"] * 899 + ["1;2"], "row 900; a vector holds finite numbers alone"),
        ([7.0] * 900, "expected lists of numbers, or text"),
        ([[[1.0]]] * 900, "expected lists of numbers, or text"),
        ([[date(2026, 1, 1)]] * 900, "expected lists of numbers, or text"),
    ],
)
def test_vectors_of_other_lengths_or_gaps_are_one_sentence(values, words, tmp_path):
    path = write_parquet(log().with_columns(v=pl.Series(values)), tmp_path / "l.parquet")
    with pytest.raises(DataError, match=words):
        ensure(described(path, vectors=("v",)), "mine", tmp_path)


def test_columns_that_share_a_vocabulary_are_counted_as_one(tmp_path):
    """The known values, their counts and their rows of the one table, by polars."""
    frame = log().with_columns(seen=pl.Series([["3", "7", None][: i % 4] for i in range(900)]))
    frame.write_parquet(tmp_path / "log.parquet")
    config = described(tmp_path / "log.parquet", lists=("tags", "seen"), shared={"seen": "item"})
    dataset = ensure(replace(config, min_count=40), "mine", tmp_path)
    train = load(config).train
    values = pl.concat([train["item"].cast(pl.String), train["seen"].explode().drop_nulls()])
    counts = values.value_counts(name="n").filter(pl.col("n") >= 40)
    known = pl.read_parquet(vocabulary_file(dataset.path, "item"))[3:]
    assert dict(known.select("value", "count").iter_rows()) == dict(counts.iter_rows())
    assert not vocabulary_file(dataset.path, "seen").exists()
    assert dataset.train.bags[1].ids.max() < len(counts) + 3
    ids = dict(known.select("value", "id").iter_rows())
    expected = [ids.get(v, 2) for v in train["item"].cast(pl.String)]
    assert dataset.train.ids[:, 1].tolist() == expected
    schema = dataset.schema
    assert schema.starts["seen"] == schema.starts["item"] == schema.categorical[0].size
    assert schema.vocabulary_size == sum(f.size for f in schema.id_fields if f.shares is None)
    facts = {f.name: f for f in describe(dataset, {}).fields}
    absent = sum(value is None for row in train["seen"].to_list() for value in row)
    assert facts["item"].missing == 0
    assert facts["seen"].missing == absent / len(dataset.train.bags[1].ids)


def test_ids_are_hashed_by_crc32_and_the_group_is_not(tmp_path):
    config = described(write_parquet(log(), tmp_path / "l.parquet"), hash={"user": 7, "tags": 1})
    raw = load(replace(config, split="group"))
    rows = pl.concat(raw.splits().values()).sort("price")
    users = log().sort("price")["user"]
    assert rows["user"].to_list() == [str(zlib.crc32(u.encode()) % 7) for u in users]
    assert rows[raw.group_column].to_list() == users.to_list()
    assert set(rows["tags"].list.explode()) <= {"0", None}


@pytest.mark.parametrize(
    ("column", "role", "words"),
    [
        (pl.concat_list("item", "item").cast(pl.Array(pl.Int64, 2)), "ids", "one value a row"),
        (pl.concat_list("item", "item").cast(pl.Array(pl.Int64, 2)), "lists", None),
        (
            pl.concat_list("price"),
            "lists",
            r"holds .* in row 1; lists hold ids; list a column of vectors",
        ),
        (pl.concat_list("item").cast(pl.List(pl.Float64)), "lists", None),
        (pl.concat_list(pl.lit(float("nan")), "item"), "lists", None),
        (pl.concat_list(pl.col("item") + 2.0**60), "lists", "tells whole numbers apart"),
        (pl.lit('["a", "b"]'), "lists", "lists in brackets are not taken apart"),
        (pl.concat_list(pl.struct("item")), "lists", "lists of ids"),
        (pl.col("item"), "lists", "expected lists"),
        (pl.struct("item"), "ids", "expected one value a row"),
        (pl.struct("item"), "numbers", "expected one number a row"),
        (pl.duration(hours="item"), "ids", "convert the column"),
        (pl.duration(hours="item"), "numbers", None),
        (pl.col("item") * 1e19, "ids", r"e\+\d+ in row \d+; Float64 tells whole numbers apart"),
        (pl.col("item") + 2.0**60, "ids", r"beyond which several ids are one"),
        ((pl.col("item") + 2**25).cast(pl.Float32), "ids", r"up to 16,777,216 only"),
        (pl.col("item").cast(pl.Float32), "ids", None),
        (pl.col("item").cast(pl.String).cast(pl.Categorical), "numbers", None),
        (
            pl.col("user").cast(pl.Categorical),
            "numbers",
            r"holds 'u.*' in row 1; expected a number",
        ),
        (pl.lit(b"\xff"), "ids", r"holds b'\\xff' in row 1; expected text"),
        (pl.col("user").cast(pl.Binary), "ids", None),
        (pl.col("user").cast(pl.Binary), "numbers", "expected one number a row"),
        (pl.concat_list("item"), "ids", "belongs in dataset.lists"),
        (pl.concat_list("item"), "numbers", "expected one number a row"),
        (pl.lit(None), "ids", None),
        (pl.lit(None), "lists", None),
        (pl.col("day"), "numbers", None),
        (pl.col("item").cast(pl.Decimal(9, 2)), "numbers", None),
        (pl.lit(float("inf")), "numbers", r"holds inf in row 1; a number must be finite"),
        (pl.lit(1e200), "numbers", r"holds 1e\+200 in row 1"),
    ],
)
def test_types_that_fit_no_role_are_one_sentence(column, role, words, tmp_path):
    frame = log().with_columns(x=column)
    options = {"ids": ("user",), "numbers": (), "lists": ()}
    options[role] = (*options[role], "x")
    config = described(write_parquet(frame, tmp_path / "l.parquet"), **options)
    if words is None:
        assert len(pl.concat(load(config).splits().values())) == 900
    else:
        with pytest.raises(DataError, match=words):
            load(config)


WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=6)


@settings(max_examples=15)
@given(st.lists(st.tuples(WORD, WORD, st.booleans()), min_size=1, max_size=40), st.integers(1, 90))
def test_any_text_of_a_csv_file_is_read_as_parquet_is(rows, size):
    """Quotes, separators and line ends within values, wherever a block ends."""
    users, items, clicks = zip(*rows, strict=True)
    frame = pl.DataFrame(
        {"u": users, "i": items, "click": clicks, "bought": [False] * len(rows)},
        schema_overrides={"u": pl.String, "i": pl.String},
    )
    options = {"ids": ("u", "i"), "numbers": (), "lists": (), "group": None}
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files, "BLOCK_BYTES", size)
        text = Path(folder) / "l.csv"
        frame.write_csv(text)
        found = []
        for path in (text, write_parquet(frame, Path(folder) / "l.parquet")):
            chunks = table.load(described(path, **options)).chunks(Counter())
            found.append([(split, *row) for split, part in chunks for row in part.rows()])
        assert sorted(found[0], key=repr) == sorted(found[1], key=repr)
        assert len(found[0]) == len(rows)


VALUES = {
    pl.Int64: st.integers(-3, 3) | st.sampled_from([2**60 + 1, -1]),
    pl.UInt64: st.sampled_from([0, 1, 2**64 - 1, 2**63]),
    pl.Float64: st.sampled_from([0.0, 1.0, 1.5, -0.0, 2.0**53, 1e-7, float("nan")]),
    pl.String: st.sampled_from(["", "7", "007", " 7", "7.0", "NULL", "<oov>", "é", "a,b", "\n"]),
    pl.Boolean: st.booleans(),
    pl.Date: st.dates(date(2020, 1, 1), date(2020, 1, 4)),
}


def text_of(value) -> str | None:
    """What an id is known by, written without polars."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value == int(value) and abs(value) < 2**63:
        return str(int(value))
    return str(value).replace("e-0", "e-")


@st.composite
def tables(draw) -> pl.DataFrame:
    rows = draw(st.integers(12, 40))
    columns = {}
    for number in range(draw(st.integers(1, 3))):
        dtype = draw(st.sampled_from(list(VALUES)))
        column = st.lists(st.none() | VALUES[dtype], min_size=rows, max_size=rows)
        columns[f"c{number}"] = pl.Series(draw(column), dtype=dtype)
    columns["n"] = pl.Series(range(rows))
    click = draw(st.permutations([k % 2 for k in range(rows)]))
    columns["click"] = pl.Series(click).cast(draw(st.sampled_from([pl.Int8, pl.Boolean])))
    return pl.DataFrame(columns)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate])
@given(tables(), st.integers(1, 3), st.sampled_from([7, 1 << 18]))
def test_any_table_is_prepared_to_what_python_counts(frame, min_count, slice_rows):
    ids = [name for name in frame.columns if name.startswith("c") and name != "click"]
    config = {
        "ids": (*ids, "n"),
        "numbers": (),
        "lists": (),
        "group": ids[0],
        "tasks": (TableTask(name="ctr", label="click"),),
        "key": "n",
        "min_count": min_count,
    }
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files, "SLICE_ROWS", slice_rows)
        path = write_parquet(frame, Path(folder) / "l.parquet")
        try:
            dataset = ensure(described(path, **config), "mine", Path(folder))
        except DataError as error:
            if not re.search("constant|by another name|split is empty", str(error)):
                raise
            return
        words = [pl.read_parquet(vocabulary_file(dataset.path, n), glob=False) for n in (*ids, "n")]
        assert words[-1]["value"].len() - 3 == (len(dataset.train) if min_count == 1 else 0)
        stream = table.load(described(path, **config))
        where = {split: [] for split in ("train", "valid", "test")}
        for chunk in stream.chunks(Counter()):
            where[chunk.split] += map(int, chunk.frame["n"])
        for position, name in enumerate(ids):
            texts = [text_of(value) for value in frame[name]]
            counts = Counter(texts[row] for row in where["train"])
            vocabulary = words[position]
            known = dict(zip(vocabulary["value"][3:], vocabulary["id"][3:], strict=True))
            assert known.keys() == {
                t for t, k in counts.items() if t is not None and k >= min_count
            }
            for split, rows in where.items():
                expected = [1 if texts[row] is None else known.get(texts[row], 2) for row in rows]
                assert dataset.split(split).ids[:, position].tolist() == expected
        for split, rows in where.items():
            assert dataset.split(split).labels[:, 0].tolist() == [
                int(frame["click"][r]) for r in rows
            ]
        assert sorted(row for rows in where.values() for row in rows) == list(range(len(frame)))
        assert read_key(dataset)["n"].to_list() == where["test"]


ODD = [
    *(pl.lit(x) for x in (None, b"\xff", 1e200, float("nan"), 2**100, "x", "", "\ud7ff", "1e400")),
    *(pl.col("item").cast(t) for t in (pl.Int8, pl.UInt64, pl.Float32, pl.Decimal(9, 3))),
    *(pl.col("day").cast(t) for t in (pl.Date, pl.Datetime("ns", "Europe/Berlin"))),
    pl.lit(datetime(2021, 1, 1).time()),
    pl.duration(hours="item"),
    pl.struct("item", "user"),
    pl.struct("item").implode().over("item", mapping_strategy="join"),
    pl.concat_list("item", "item").cast(pl.Array(pl.Int64, 2)),
    pl.concat_list(pl.col("day"), pl.lit(None)),
    pl.concat_list(pl.concat_list("price").implode().over("item", mapping_strategy="join")),
    pl.col("user").cast(pl.Categorical),
    pl.col("user").cast(pl.Binary),
    pl.col("item") > 3,
]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_no_type_in_any_role_ends_in_another_error_than_ours(number, tmp_path):
    path = write_parquet(log(60).with_columns(x=ODD[number]), tmp_path / "l.parquet")
    for change in (
        {"ids": ("x",)},
        {"numbers": ("x",)},
        {"lists": ("x",)},
        {"ids": ("x", "user"), "hash": {"x": 3}},
        {"ids": ("x", "user"), "buckets": {"x": (1.5, 2.5)}},
        {"numbers": ("x",), "clip": {"x": (0, 9)}, "log1p": ("x",)},
        {"weights": {"tags": "x"}},
        {"group": "x", "split": "group"},
        {"split": "time", "split_column": "x", "test_from": "2021-01-01"},
        {"split": "time", "split_column": "x", "time_format": "%Y"},
        {"split": "column", "split_column": "x"},
        {"tasks": (TableTask(name="a", label="x"),), "missing_labels": "drop"},
        {"tasks": (TableTask(name="a", label="x", positive=True),), "missing_labels": "drop"},
        {"key": "x", "null_values": ("x",)},
    ):
        with suppress(DataError):
            list(table.load(described(path, **change)).chunks(Counter()))


WATCH = TableTask(name="cvr", label="watch", parent="ctr", joint="ctcvr", kind="ratio")


def watched(tmp_path: Path, **wrong: object) -> TableConfig:
    """A table whose clicks have a watch ratio; `wrong` stands in the first clicked row."""
    frame = log().with_columns(watch=pl.col("click") * (0.1 + 0.9 * pl.col("price").shuffle(1)))
    row = int(frame["click"].arg_max() or 0)
    for name, value in wrong.items():
        column = frame[name].cast(pl.String).to_list()
        column[row] = str(value)
        frame = frame.with_columns(pl.Series(name, column))
    frame.write_csv(tmp_path / "watch.csv")
    return described(tmp_path / "watch.csv", tasks=(TableTask(name="ctr", label="click"), WATCH))


def test_a_ratio_keeps_its_numbers(tmp_path):
    frame = pl.read_csv(watched(tmp_path).path)
    dataset = ensure(watched(tmp_path), "mine", tmp_path)
    labels = np.concatenate([dataset.split(name).labels for name in ("train", "valid", "test")])
    assert labels.dtype == np.float32
    assert set(np.unique(labels[:, 0])) == {0.0, 1.0}
    np.testing.assert_allclose(np.sort(labels[:, 1]), np.sort(frame["watch"]), rtol=1e-6)
    assert dataset.schema.tasks[1].is_ratio
    positives = counts(dataset.schema, labels)["cvr"]["positives"]
    assert positives == frame["click"].sum()
    half = label_weights(dataset.schema, dataset.train.labels, 1, share=0.5, seed=0)
    clicked = dataset.train.labels[:, 0] == 1
    assert (half[clicked, 1] > 0).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("value", ["1.2", "-0.1", "nan", "much"])
def test_a_ratio_beyond_0_and_1_is_refused(tmp_path, value):
    with pytest.raises(DataError, match=r"watch\.csv.*'watch'.*a ratio is a number from 0 to 1"):
        ensure(watched(tmp_path, watch=value), "mine", tmp_path)


def test_a_ratio_without_a_click_is_refused(tmp_path):
    with pytest.raises(DataError, match="1 rows have watch > 0 with click = 0; say what to do"):
        ensure(watched(tmp_path, click=0), "mine", tmp_path)


def test_a_number_that_orders_rows_as_the_ratio_does_is_no_feature(tmp_path):
    config = watched(tmp_path)
    frame = pl.read_csv(config.path).with_columns(seconds=pl.col("watch") ** 2 * 60)
    frame.write_csv(config.path)
    with pytest.raises(DataError, match="'seconds' has the order of the label 'watch'"):
        ensure(replace(config, numbers=("price", "seconds")), "mine", tmp_path)


def test_a_ratio_that_never_changes_is_refused(tmp_path):
    config = watched(tmp_path)
    pl.read_csv(config.path).with_columns(watch=pl.col("click") * 0.5).write_csv(config.path)
    with pytest.raises(DataError, match=r"watch is the same number \(0.5\)"):
        ensure(config, "mine", tmp_path)
