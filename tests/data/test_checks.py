"""Guards stop what would make a result worthless, and say what to change."""

import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from cvrbench.data.dataset import SPLITS
from cvrbench.data.raw import RawField, apply_policy
from cvrbench.data.schema import Task
from cvrbench.errors import DataError
from tests.data.checks import Tables, check

TASKS = (
    Task(name="ctr", label="click"),
    Task(name="cvr", label="buy", parent="ctr", joint="ctcvr"),
)


def frame(rows: int = 1200, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    click = (rng.random(rows) < 0.4).astype(np.uint8)
    return pl.DataFrame(
        {
            "user": rng.integers(300, size=rows) + 1000 * seed,
            "item": rng.integers(9, size=rows),
            "click": click,
            "buy": click * (rng.random(rows) < 0.3).astype(np.uint8),
        }
    )


@pytest.fixture
def raw() -> Tables:
    return Tables(
        train=frame(seed=0),
        valid=frame(seed=1),
        test=frame(seed=2),
        fields=(
            RawField(name="user", kind="categorical"),
            RawField(name="item", kind="categorical"),
        ),
        tasks=TASKS,
        group="user",
        group_disjoint=True,
    )


@pytest.mark.parametrize("pieces", [1, 7])
def test_sound_data_pass(raw, pieces):
    check(raw, "mine", pieces)


def test_a_label_among_the_features_is_refused(raw):
    bad = replace(raw, fields=(*raw.fields, RawField(name="buy", kind="categorical")))
    with pytest.raises(DataError, match="label 'buy' is among the features"):
        check(bad, "mine")


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_label_under_another_name_is_refused(raw, pieces):
    disguised = {
        split: f.with_columns(
            pl.when(pl.col("click") == 1).then(pl.lit("y")).otherwise(pl.lit("n")).alias("seen")
        )
        for split, f in raw.splits().items()
    }
    fields = (*raw.fields, RawField(name="seen", kind="categorical"))
    with pytest.raises(DataError, match=r"'seen'.*'click'.*another name"):
        check(replace(raw, **disguised, fields=fields), "mine", pieces)


def test_a_field_listed_twice_is_refused(raw):
    with pytest.raises(DataError, match="'item' is listed twice"):
        check(replace(raw, fields=(*raw.fields, raw.fields[1])), "mine")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_an_empty_split_is_refused(raw, split):
    with pytest.raises(DataError, match=f"the {split} split is empty"):
        check(replace(raw, **{split: raw.train.clear()}), "mine")


@pytest.mark.parametrize("value", [2, None])
def test_a_label_that_is_neither_0_nor_1_is_refused(raw, value):
    bad = raw.valid.with_columns(
        pl.when(pl.int_range(pl.len()) == 6)
        .then(value)
        .otherwise(pl.col("click").cast(pl.Int64))
        .alias("click")
    )
    with pytest.raises(DataError, match=rf"'click' holds {value}.*row 7"):
        check(replace(raw, valid=bad), "mine")


@pytest.mark.parametrize("constant", [0, 1])
def test_a_constant_label_is_refused_in_its_own_space(raw, constant):
    bad = raw.test.with_columns((pl.col("click") * constant).alias("buy"))
    with pytest.raises(DataError, match=r"test split.*buy = 1.*where click = 1"):
        check(replace(raw, test=bad), "mine")


@pytest.mark.parametrize("pieces", [1, 100])
def test_a_user_in_two_splits_is_refused_where_the_split_promises_none(raw, pieces):
    both = replace(raw, test=pl.concat([raw.test, raw.train.head(1)]))
    with pytest.raises(DataError, match=r"1 values of 'user' are in train and in test"):
        check(both, "mine", pieces)
    check(replace(both, group_disjoint=False), "mine")


def test_a_conversion_without_a_click_is_refused_unless_kept_on_purpose(raw):
    bad = replace(raw, train=raw.train.with_columns(pl.lit(1, pl.UInt8).alias("buy")))
    with pytest.raises(DataError, match="buy = 1 with click = 0"):
        check(bad, "mine")
    with pytest.raises(DataError, match="every row has buy = 1"):
        check(replace(bad, unnested=True), "mine")


POLICY_ROWS = pl.DataFrame({"click": [1, 0, 0, 1], "buy": [1, 1, 0, 0]})


def test_policies_do_what_they_say():
    drop, dropped = apply_policy(POLICY_ROWS, TASKS, "drop")
    assert drop.rows() == [(1, 1), (0, 0), (1, 0)]
    assert dropped == {"dropped: buy = 1 with click = 0": 1}
    zero, changed = apply_policy(POLICY_ROWS, TASKS, "zero_conversion")
    assert zero.rows() == [(1, 1), (0, 0), (0, 0), (1, 0)]
    assert list(changed.values()) == [1]
    kept, _ = apply_policy(POLICY_ROWS, TASKS, "keep")
    assert kept.equals(POLICY_ROWS)
    with pytest.raises(DataError, match=r"1 rows have buy = 1 with click = 0.*drop"):
        apply_policy(POLICY_ROWS, TASKS, "refuse")


def wide(seed: int, rows: int = 3000) -> pl.DataFrame:
    return frame(rows, seed)


def noisy(column: pl.Expr, seed: int = 9) -> pl.Expr:
    """The column on clicked rows, noise elsewhere."""
    noise = pl.Series(np.random.default_rng(seed).integers(10_000, size=3000))
    return pl.when(pl.col("click") == 1).then(column).otherwise(pl.lit(noise))


DISGUISES = {
    "label as id": ("categorical", pl.col("click")),
    "label as number": ("numeric", pl.col("click") * 7.5),
    "label as list": ("multivalued", pl.concat_list(pl.col("click").cast(pl.String))),
    "absent or not": ("categorical", pl.when(pl.col("click") == 1).then(pl.lit("x"))),
    "id in its space": ("categorical", noisy(pl.col("buy"))),
    "number in its space": ("numeric", noisy(pl.col("buy") * 0.5)),
    "number of a vector": ("vector", pl.concat_list(pl.lit(0.5), noisy(pl.col("buy") * 0.5))),
    "list in its space": ("multivalued", pl.concat_list(noisy(pl.col("buy")))),
}


def with_column(raw: Tables, kind: str, column: pl.Expr) -> Tables:
    tables = {
        split: wide(seed).with_columns(column.alias("late")) for seed, split in enumerate(SPLITS)
    }
    return replace(raw, **tables, fields=(*raw.fields, RawField(name="late", kind=kind)))


@pytest.mark.parametrize("pieces", [1, 5])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_label_is_refused_in_every_kind_of_column_and_in_its_own_space(raw, disguise, pieces):
    with pytest.raises(DataError, match=r"'late'.*by another name, take it out"):
        check(with_column(raw, *DISGUISES[disguise]), "mine", pieces)


MOSTLY = pl.when(pl.int_range(pl.len()) % 400 == 0).then(1 - pl.col("buy")).otherwise(pl.col("buy"))

NOISE = pl.lit(pl.Series(np.random.default_rng(3).normal(size=3000) * 9))


@pytest.mark.parametrize("pieces", [1, 5])
@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("numeric", MOSTLY + pl.int_range(pl.len()) * 1e-6),
        ("numeric", -MOSTLY.cast(pl.Int64) - pl.int_range(pl.len()) * 1e-6),
        ("categorical", MOSTLY * 100 + pl.int_range(pl.len()) % 60),
        ("multivalued", pl.concat_list(MOSTLY * 100, pl.int_range(pl.len()) % 60)),
        ("vector", pl.concat_list(NOISE, NOISE + MOSTLY)),
    ],
)
def test_a_field_that_tells_nearly_all_is_remarked_upon_in_the_space_of_its_task(
    raw, kind, column, pieces
):
    remarks = check(with_column(raw, kind, column), "mine", pieces)
    (said,) = [remark for remark in remarks if "'buy' where click = 1" in remark]
    assert re.search(r"'late' alone has an AUC of (0\.9[89]\d|1\.000)", said)
    assert check(raw, "mine", pieces) == []
