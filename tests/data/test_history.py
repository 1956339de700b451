"""What was known before an exposure, against counting by hand, and that nothing else is in it."""

import math

import numpy as np
import polars as pl
import pytest

from cvrbench.data.sources.history import clicks_before, counts_before

MOST = 3


def log(seed: int, rows: int = 200) -> pl.DataFrame:
    """A log in no order, with rows of the same time, unknown authors, and lists of tags."""
    r = np.random.default_rng(seed)
    click = r.integers(0, 2, rows)
    tags = [[f"t{t}" for t in r.integers(0, 5, r.integers(0, 3))] for _ in range(rows)]
    authors = [None if a == 0 else int(a) for a in r.integers(0, 6, rows)]
    return pl.DataFrame(
        {
            "user_id": r.integers(0, 9, rows),
            "video_id": r.integers(0, 20, rows),
            "author_id": authors,
            "tag": [None if k % 7 == 0 else t for k, t in enumerate(tags)],
            "time_ms": r.integers(0, 40, rows),
            "is_click": click,
            "long_view": r.integers(0, 2, rows),
        },
        schema_overrides={"tag": pl.List(pl.String)},
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("key", ["user_id", "author_id"])
def test_counts_are_those_of_earlier_rows_alone(seed, key):
    frame = log(seed)
    rows = frame.to_dicts()
    found = pl.DataFrame(counts_before(frame, key, "is_click", "long_view", "x"))
    for row, got in zip(rows, found.iter_rows(named=True), strict=True):
        before = [
            o for o in rows if o[key] == row[key] is not None and o["time_ms"] < row["time_ms"]
        ]
        clicks = sum(o["is_click"] for o in before)
        conversions = sum(o["is_click"] * o["long_view"] for o in before)
        assert got["x_seen_log"] == pytest.approx(math.log1p(len(before)))
        assert got["x_click_rate"] == pytest.approx((clicks + 1) / (len(before) + 2))
        assert got["x_conversion_rate"] == pytest.approx((conversions + 1) / (clicks + 2))


@pytest.mark.parametrize("seed", range(3))
def test_lists_are_the_users_last_clicks_before_the_row(seed):
    frame = log(seed)
    rows = frame.with_row_index("place").sort("user_id", "time_ms").to_dicts()
    columns = ["video_id", "tag"]
    videos, tags = clicks_before(frame, "user_id", "is_click", columns, MOST)
    assert [videos.name, tags.name] == columns
    for row in rows:
        clicked = [
            o
            for o in rows
            if o["user_id"] == row["user_id"] and o["is_click"] and o["time_ms"] < row["time_ms"]
        ][-MOST:]
        assert videos[row["place"]].to_list() == [o["video_id"] for o in clicked]
        assert tags[row["place"]].to_list() == [t for o in clicked for t in o["tag"] or []]


def test_nobody_who_clicked_has_a_list():
    frame = log(0).with_columns(is_click=pl.lit(0))
    (videos,) = clicks_before(frame, "user_id", "is_click", ["video_id"], MOST)
    assert videos.list.len().to_list() == [0] * len(frame)


def test_the_future_does_not_reach_the_past():
    """Rows of the second half of time, changed at will, leave the first half's features alone."""
    frame = log(1, rows=400)
    late = pl.col("time_ms") >= 20
    other = frame.with_columns(
        pl.when(late).then(1 - pl.col("is_click")).otherwise("is_click").alias("is_click"),
        pl.when(late).then(pl.col("video_id") + 7).otherwise("video_id").alias("video_id"),
    )
    early = frame["time_ms"].to_numpy() < 20
    for one in ("user_id", "author_id"):
        for a, b in zip(
            counts_before(frame, one, "is_click", "long_view", "x"),
            counts_before(other, one, "is_click", "long_view", "x"),
            strict=True,
        ):
            assert a.filter(early).equals(b.filter(early))
    (a,), (b,) = (
        clicks_before(f, "user_id", "is_click", ["video_id"], MOST) for f in (frame, other)
    )
    assert a.filter(early).equals(b.filter(early))
