"""`data inspect`: what it takes the columns of a log for, and that its yaml is a dataset."""

import datetime as dt
import gzip

import numpy as np
import polars as pl
import pytest

from cvrbench.config.compose import compose
from cvrbench.data.inspect import Wanted, inspect
from cvrbench.errors import ConfigError, DataError

N = 900
GUESS = Wanted()


def test_words_of_labels_and_of_absent_numbers_are_proposed(tmp_path):
    clicked = log()["clicked"].cast(pl.Int8).replace_strict({1: "Yes", 0: "No"})
    price = log()["price"].cast(pl.String).set(pl.Series(np.arange(N) % 9 == 0), "N/A")
    items = log()["itemId"].cast(pl.String).set(pl.Series(np.arange(N) % 7 == 0), "NA")
    log(clicked=clicked, price=price, itemId=items).write_csv(tmp_path / "log.csv")
    found = inspect(tmp_path / "log.csv", GUESS)
    roles = {column.name: column.role for column in found.columns}
    assert (roles["price"], roles["itemId"], roles["device"]) == ("number", "id", "id")
    assert set(found.keys["null_values"]) == {"N/A", "NA"}
    assert found.keys["tasks"][0] == {"name": "ctr", "label": "clicked", "positive": "Yes"}
    assert 'positive: "Yes"' in found.yaml("mine")  # yaml would read Yes as true


def log(**more: pl.Series) -> pl.DataFrame:
    draw = np.random.default_rng(1)
    click = draw.random(N) < 0.3
    bought = click & (draw.random(N) < 0.4)
    frame = pl.DataFrame(
        {
            "event": [f"e{k}" for k in range(N)],
            "user_id": draw.integers(0, 90, N),
            "itemId": draw.integers(0, 40, N),
            "price": draw.random(N).round(3),
            "device": draw.choice(["ios", "android"], N),
            "tags": ["|".join(map(str, draw.choice(9, 3))) for _ in range(N)],
            "country": ["DE"] * N,
            "is_new": draw.random(N) < 0.5,
            "clicked": click,
            "bought": bought,
            "dwell": np.where(click, draw.integers(9, 99, N), 0),
            "paid": pl.Series(np.where(bought, draw.random(N), np.nan)).fill_nan(None),
            "shown_at": [dt.datetime(2024, 1, 1) + dt.timedelta(minutes=k) for k in range(N)],
        }
    )
    return frame.with_columns(**more)


ROLES = {
    "event": "key", "user_id": "group", "itemId": "id", "price": "number", "device": "id",
    "tags": "list", "country": "left out", "is_new": "id", "clicked": "label", "bought": "label",
    "dwell": "left out", "paid": "left out", "shown_at": "time",
}  # fmt: skip
KEYS = {
    "ids": ["user_id", "itemId", "device", "is_new"],
    "numbers": ["price"],
    "lists": ["tags"],
    "tasks": [
        {"name": "ctr", "label": "clicked"},
        {"name": "cvr", "label": "bought", "parent": "ctr", "joint": "ctcvr"},
    ],
    "group": "user_id",
    "key": "event",
    "split": "time",
    "split_column": "shown_at",
}


def write_parts(path):
    for part in range(3):
        folder = path / f"day={part}"
        folder.mkdir(parents=True)
        log()[part::3].write_parquet(folder / "part.parquet")


FORMS = {
    "log.parquet": lambda path: log().write_parquet(path),
    "log.csv": lambda path: log().write_csv(path),
    "log.tsv": lambda path: log().write_csv(path, separator="\t"),
    "log;.csv": lambda path: log().write_csv(path, separator=";"),
    "log.csv.gz": lambda path: path.write_bytes(gzip.compress(log().write_csv().encode())),
    "floats.csv": lambda path: log().with_columns(
        pl.col("clicked", "bought").cast(pl.Float64)
    ).write_csv(path),
    "folder": write_parts,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_roles_are_guessed_whatever_the_form_of_the_file(tmp_path, name):
    FORMS[name](tmp_path / name)
    found = inspect(tmp_path / name, GUESS)
    roles = {column.name: column.role for column in found.columns}
    if name == "folder":
        assert roles.pop("day") == "left out"  # a time, as the rows' own
    assert roles == ROLES
    assert found.keys.pop("separator", None) == (";" if ";" in name else None)
    assert found.keys == {"path": str(tmp_path / name), **KEYS}


def test_the_yaml_is_a_dataset_whatever_the_names(tmp_path, monkeypatch):
    monkeypatch.delenv("CVRBENCH_CONF", raising=False)
    monkeypatch.chdir(tmp_path)
    names = (
        "yes",
        "007",
        "a: b",
        "${x}",
        "#1",
        "1e5",
        "用户",
        "x'y",
        'x"y',
        "a,b",
        "[0]",
        "~",
        "k\\",
    )
    path = tmp_path / "my: $log#.parquet"
    log(**dict.fromkeys(names, pl.col("itemId"))).write_parquet(path)
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "mine.yaml").write_text(inspect(path, GUESS).yaml("mine"))
    config = compose(["dataset=mine"]).config.dataset
    assert config.ids == ("user_id", "itemId", "device", "is_new", *names)
    assert (config.path, config.numbers) == (str(path), ("price",))
    assert [(t.label, t.parent) for t in config.tasks] == [("clicked", None), ("bought", "ctr")]


def tasks_of(tmp_path, frame, wanted=GUESS):
    frame.write_parquet(tmp_path / "log.parquet")
    found = inspect(tmp_path / "log.parquet", wanted)
    return [(t["label"], t.get("parent")) for t in found.keys.get("tasks", [])], found


def test_labels_are_found_by_name_or_nesting_and_taken_as_told(tmp_path):
    anonymous = log().rename({"clicked": "a", "bought": "b"})
    assert tasks_of(tmp_path, anonymous)[0] == [("a", None), ("b", "ctr")]
    only = log().drop("bought", "paid")
    assert tasks_of(tmp_path, only)[0] == [("clicked", None)]
    cart = log(cart=pl.col("clicked") & (pl.int_range(N) % 3 > 0) | pl.col("bought"))
    told = Wanted(tasks={"ctr": "clicked", "cart": "cart", "cvr": "bought"}, only_these=True)
    chain = [("clicked", None), ("cart", "ctr"), ("bought", "cart")]
    assert tasks_of(tmp_path, cart, told)[0] == chain
    labels, found = tasks_of(tmp_path, cart)
    assert labels == [("clicked", None), ("bought", "ctr")]
    assert {c.name: c.role for c in found.columns}["cart"] == "left out"
    apart = log(bought=pl.int_range(N) % 2)
    labels, found = tasks_of(tmp_path, apart)
    assert labels == [("clicked", None), ("bought", None)]
    assert "task of its own" in found.remarks[0]


def test_what_cannot_be_guessed_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="--click COLUMN"):
        tasks_of(tmp_path, log().drop("clicked", "bought", "is_new"))
    with pytest.raises(ConfigError, match=r"no column 'clik'\. Did you mean 'clicked'"):
        tasks_of(tmp_path, log(), Wanted(tasks={"ctr": "clik"}))
    with pytest.raises(DataError, match=r"'price' is no label of 0 and 1: it holds 0\."):
        tasks_of(tmp_path, log(), Wanted(tasks={"ctr": "price"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file"):
        inspect(tmp_path / "empty", GUESS)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read"):
        inspect(tmp_path / "bad.parquet", GUESS)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    "write",
    [
        lambda s: s.cast(pl.String).str.to_titlecase(),
        lambda s: s.cast(pl.Int8).cast(pl.String) + " ",
        lambda s: s.cast(pl.Float64),
    ],
)
def test_labels_are_found_however_they_are_written(write, suffix, tmp_path):
    frame = log().drop("tags").with_columns(write(log()[name]) for name in ("clicked", "bought"))
    path = tmp_path / f"log{suffix}"
    frame.write_csv(path) if suffix == ".csv" else frame.write_parquet(path)
    assert inspect(path, GUESS).keys["tasks"] == KEYS["tasks"]


def test_types_and_names_that_no_dataset_can_hold_are_left_out(tmp_path):
    price = log()["price"]
    odd = {
        "bytes": pl.Series([b"\xff", None, b"a"] * 300),
        "record": pl.DataFrame({"a": price}).to_struct(),
        "vector": pl.Series([[0.5, 1.5]] * N).cast(pl.Array(pl.Float32, 2)),
        "": price,
        "???": price,
    }
    frame = log().with_columns(values.alias(name) for name, values in odd.items())
    frame.with_columns(cost=price.cast(pl.Decimal(9, 3))).write_parquet(tmp_path / "l.parquet")
    roles = {c.name: c.role for c in inspect(tmp_path / "l.parquet", GUESS).columns}
    assert {roles[name] for name in odd} == {"left out"}
    assert roles["cost"] == "number"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (log().head(0).write_csv().encode(), "holds no rows"),
        (log().write_csv().encode("utf-16"), "is UTF-16"),
    ],
)
def test_a_file_without_a_sample_says_why(content, words, tmp_path):
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        inspect(tmp_path / "l.csv", GUESS)
