"""Prepared datasets: what is written, what is learned from where, and what a changed file does."""

import errno
import json
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from cvrbench.data.dataset import SPLITS, open_dataset, verify, vocabulary_file
from cvrbench.data.encode import VocabularyCounter, as_text
from cvrbench.data.prepare import prepare
from cvrbench.data.raw import Chunk, Fractions, RawField, RawStream, by_group
from cvrbench.data.registry import describe
from cvrbench.data.schema import MISSING, N_RESERVED, OOV, Schema, Task
from cvrbench.data.writer import StoreWriter
from cvrbench.errors import DataError
from tests.data.checks import Tables


def frame(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 9, rows)
    return pl.DataFrame(
        {
            "user": rng.integers(50, size=rows),
            "colour": rng.choice(["red", "green", None], rows).tolist(),
            "age": [None if a < 30 else float(a) for a in age],
            "tags": [["a", "b"][: i % 3] for i in range(rows)],
            "tags__weight": [[1.0, 0.5][: i % 3] for i in range(rows)],
            "click": (rng.random(rows) < 0.4).astype(np.uint8),
        }
    )


@pytest.fixture
def raw() -> Tables:
    return Tables(
        train=frame(400, 0),
        valid=frame(100, 1),
        test=frame(100, 2),
        fields=(
            RawField(name="user", kind="categorical", min_count=8),
            RawField(name="colour", kind="categorical"),
            RawField(name="tags", kind="multivalued", weights="tags__weight"),
            RawField(name="age", kind="numeric"),
        ),
        tasks=(Task(name="ctr", label="click"),),
        group="user",
        accounting={"read": 600},
    )


def make(raw, folder, name="mine"):
    stream = raw if isinstance(raw, RawStream) else raw.stream()
    return prepare(stream, name=name, target=folder / name, config={})


def test_ids_lead_back_to_the_values(raw, tmp_path):
    dataset = make(raw, tmp_path)
    names = [field.name for field in dataset.schema.categorical]
    for split, source in raw.splits().items():
        for column, name in enumerate(names):
            table = pl.read_parquet(dataset.path / "vocabulary" / f"{name}.parquet")
            values = table["value"].to_list()
            got = [values[i] for i in dataset.split(split).ids[:, column]]
            for have, want in zip(got, source[name].cast(pl.String).to_list(), strict=True):
                expected = "<missing>" if want is None else want
                assert have == expected or (have == "<oov>" and want not in values)


def test_vocabularies_and_scales_come_from_the_training_rows_alone(raw, tmp_path):
    strange = raw.test.with_columns(
        pl.lit("violet").alias("colour"), (pl.col("age") * 1000).alias("age")
    )
    one, other = make(raw, tmp_path, "one"), make(replace(raw, test=strange), tmp_path, "other")
    assert one.schema.categorical == other.schema.categorical
    assert one.schema.numeric == other.schema.numeric
    assert (other.test.ids[:, 1] == OOV).all()
    np.testing.assert_array_equal(one.train.ids, other.train.ids)


@given(
    values=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=60),
    min_count=st.integers(1, 10),
)
def test_a_value_is_known_when_seen_at_least_min_count_times(values, min_count):
    counter = VocabularyCounter()
    for start in range(0, len(values), 7):
        counter.add(pl.Series("x", values[start : start + 7], dtype=pl.String))
    vocabulary = counter.learn(min_count)
    known = set(vocabulary.table["value"][N_RESERVED:])
    assert known == {v for v in set(values) - {None} if values.count(v) >= min_count}
    ids = vocabulary.encode(pl.Series("x", [*values, "new", None], dtype=pl.String))
    for value, number in zip([*values, "new", None], ids, strict=True):
        if value is None:
            assert number == MISSING
        elif value in known:
            assert vocabulary.table["value"][int(number)] == value
        else:
            assert number == OOV


def test_numbers_are_standardised_as_scikit_learn_does_and_gaps_have_a_column(raw, tmp_path):
    dataset = make(raw, tmp_path)
    ages = raw.train["age"].to_numpy().reshape(-1, 1)
    scaler = StandardScaler().fit(ages[~np.isnan(ages[:, 0])])
    for split, source in raw.splits().items():
        column = source["age"].to_numpy()
        expected = np.nan_to_num(scaler.transform(column.reshape(-1, 1))[:, 0], nan=0.0)
        np.testing.assert_allclose(dataset.split(split).numeric[:, 0], expected, atol=1e-6)
        np.testing.assert_array_equal(dataset.split(split).numeric[:, 1], np.isnan(column))


def test_bags_hold_every_value_with_its_weight(raw, tmp_path):
    dataset = make(raw, tmp_path)
    table = pl.read_parquet(dataset.path / "vocabulary" / "tags.parquet")["value"]
    bag = dataset.train.bags[0]
    for row in range(60):
        here = slice(bag.offsets[row], bag.offsets[row + 1])
        assert [table[int(i)] for i in bag.ids[here]] == raw.train["tags"][row].to_list()
        assert bag.weights[here].tolist() == raw.train["tags__weight"][row].to_list()


def test_an_absent_list_is_missing_and_an_empty_one_is_nothing(raw, tmp_path):
    lists = raw.train.with_columns(
        pl.Series("tags", [None, [], *raw.train["tags"].to_list()[2:]]),
        pl.Series("tags__weight", [None, [], *raw.train["tags__weight"].to_list()[2:]]),
    )
    bag = make(replace(raw, train=lists), tmp_path).train.bags[0]
    assert bag.offsets[:3].tolist() == [0, 1, 1]
    assert bag.ids[0] == MISSING


def test_groups_are_the_same_in_all_splits(raw, tmp_path):
    dataset = make(raw, tmp_path)
    code: dict[int, int] = {}
    for split, source in raw.splits().items():
        for user, group in zip(source["user"], dataset.split(split).groups, strict=True):
            assert code.setdefault(user, int(group)) == int(group)
    assert len(set(code.values())) == len(code)


def test_preparing_twice_gives_the_same_bytes_and_fingerprint(raw, tmp_path):
    one, other = make(raw, tmp_path, "one"), make(raw, tmp_path / "b", "one")
    assert one.schema == other.schema
    assert one.manifest["files"] == other.manifest["files"]


def test_another_row_gives_another_fingerprint(raw, tmp_path):
    less = replace(raw, train=raw.train.head(399))
    assert (
        make(raw, tmp_path, "a").schema.fingerprint != make(less, tmp_path, "b").schema.fingerprint
    )


def test_verify_reads_every_file(raw, tmp_path):
    dataset = make(raw, tmp_path)
    assert verify(dataset.path) == len(list(dataset.path.rglob("*.npy"))) + 3
    file = dataset.path / "test" / "ids.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    open_dataset(dataset.path)
    with pytest.raises(DataError, match=r"ids.npy was changed.*--force"):
        verify(dataset.path)


def test_a_vocabulary_edited_by_hand_is_noticed_when_opened(raw, tmp_path):
    dataset = make(raw, tmp_path)
    file = dataset.path / "vocabulary" / "colour.parquet"
    table = pl.read_parquet(file).with_columns(pl.lit("pink").alias("value"))
    table.write_parquet(file)
    with pytest.raises(DataError, match=r"colour.parquet.*--force"):
        open_dataset(dataset.path)


def test_a_missing_file_and_another_format_are_named(raw, tmp_path):
    dataset = make(raw, tmp_path)
    manifest = dataset.path / "manifest.json"
    data = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**data, "format_version": 99}))
    with pytest.raises(DataError, match="format version 99"):
        open_dataset(dataset.path)
    manifest.write_text(json.dumps(data))
    (dataset.path / "valid" / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"labels.npy is missing"):
        open_dataset(dataset.path)


def test_a_full_disk_leaves_the_old_dataset_and_nothing_else(raw, tmp_path, monkeypatch):
    old = make(raw, tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StoreWriter, "append", full)
    with pytest.raises(DataError, match=r"no space left.*data_dir"):
        make(replace(raw, train=raw.train.head(300)), tmp_path)
    assert open_dataset(old.path).schema == old.schema
    assert sorted(path.name for path in tmp_path.iterdir()) == [".locks", "mine"]


def test_the_rows_of_a_stream_may_come_in_any_pieces(raw, tmp_path):
    def pieces(account: Counter[str]) -> Iterator[Chunk]:
        account.update(raw.accounting)
        for start in range(0, 400, 7):
            for split, whole in raw.splits().items():
                if len(whole) > start:
                    yield Chunk(split, whole.slice(start, 7))

    whole = make(raw, tmp_path, "whole")
    pieced = make(replace(raw.stream(), chunks=pieces), tmp_path / "pieces", "whole")
    assert pieced.manifest["accounting"] == whole.manifest["accounting"]
    for split in SPLITS:
        one, other = whole.split(split), pieced.split(split)
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.groups, other.groups)
        np.testing.assert_allclose(one.numeric, other.numeric, atol=1e-6)
        for bag, same in zip(one.bags, other.bags, strict=True):
            for array, equal in zip(bag, same, strict=True):
                np.testing.assert_array_equal(array, equal)


def test_a_stream_that_changes_between_its_readings_is_noticed(raw, tmp_path):
    readings = []

    def chunks(_: Counter[str]) -> Iterator[Chunk]:
        readings.append(1)
        for split, whole in raw.splits().items():
            yield Chunk(split, whole.head(len(whole) + 1 - len(readings)))

    with pytest.raises(DataError, match="changed while they were read"):
        make(replace(raw.stream(), chunks=chunks), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".locks"]


def test_what_a_killed_preparation_left_is_cleared_away(raw, tmp_path):
    left = tmp_path / ".preparing-mine" / "dataset" / "vocabulary"
    left.mkdir(parents=True)
    (left / "colour.parquet").write_bytes(b"half a file")
    make(raw, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".locks", "mine"]


def test_text_in_a_numeric_column_is_named(raw, tmp_path):
    bad = raw.train.with_columns(pl.lit("forty").alias("age"))
    with pytest.raises(DataError, match=r"'age' holds text, as 'forty'"):
        make(replace(raw, train=bad), tmp_path)


def leaves(value: object, path: tuple = ()) -> list[tuple]:
    """Paths of all values in nested plain data."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, inner in items for leaf in leaves(inner, (*path, key))]
    return [path]


def changed(value: object) -> object:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else "ctr" if value is None else f"{value}0"


def with_leaf(data: dict, path: tuple, change: Callable[[object], object]) -> dict:
    copy = json.loads(json.dumps(data))
    *groups, last = path
    node = reduce(operator.getitem, groups, copy)
    node[last] = change(node[last])
    return copy


@pytest.mark.parametrize("is_old", [False, True])
def test_no_value_of_a_manifest_can_change_unnoticed(raw, tmp_path, is_old):
    dataset = make(raw, tmp_path)
    file = dataset.path / "manifest.json"
    whole = json.loads(file.read_text())
    paths = leaves(whole)
    if is_old:  # of before it had a checksum: what a result depends on is in the fingerprint
        del whole["checksum"]
        names = (("schema", "name"), ("schema", "group"))  # words of the user's
        paths = [p for p in paths if p[0] in {"schema", "files"} and p not in names]
        file.write_text(json.dumps(whole))
        assert open_dataset(dataset.path).schema == dataset.schema
    for path in paths:
        for change in (changed, lambda _: [], lambda _: "\ud800"):
            file.write_text(json.dumps(with_leaf(whole, path, change)))
            with pytest.raises(DataError, match=r"manifest.json|its manifest says|changed|missing"):
                open_dataset(dataset.path)


def test_a_task_that_is_its_own_parent_is_no_schema(raw, tmp_path):
    plain = make(raw, tmp_path).schema.to_json()
    plain["tasks"][-1]["parent"] = plain["tasks"][-1]["name"]
    with pytest.raises(ValueError, match="no task before it"):
        Schema.from_json(plain)


def test_data_whose_manifest_is_no_file_are_named_and_damage_is_listed(raw, tmp_path):
    dataset = make(raw, tmp_path)
    (dataset.path / "manifest.json").unlink()
    os.mkfifo(dataset.path / "manifest.json")
    with pytest.raises(DataError, match=r"no regular file.*data prepare .* --force"):
        open_dataset(dataset.path)


@pytest.mark.parametrize(
    "values",
    [
        [1.5, 2.0, 3.0],
        [2.0, 3.0],
        [1e19, 2.0],
        [float("nan"), 2.0, None, -0.0],
        [2.0**53, 0.1],
    ],
)
@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64])
def test_the_text_of_an_id_does_not_depend_on_its_neighbours(values, dtype):
    together = as_text(pl.Series(values, dtype=dtype)).to_list()
    alone = [as_text(pl.Series([v], dtype=dtype)).item() for v in values]
    assert together == alone
    assert [t for t, v in zip(together, values, strict=True) if v == 2.0] in ([], ["2"])


NAMES = [
    *("row", "value", "rows", "positives", "rate", "label", "*", "^.*$", "<split>", "Id", "id"),
    *("a/b", "../../out", ".", "i[0]", "$a_{b$", "km[/h]", "用户", "a b", "n" * 260),
]


@pytest.mark.parametrize("turn", range(5))
def test_a_column_may_have_any_name(tmp_path, turn):
    names = [*NAMES[turn * 4 :], *NAMES[: turn * 4]]
    kinds = ["categorical", "numeric", "multivalued"] * 6
    plain = ["user", "age", "tags"] * 6

    def rows(seed: int) -> pl.DataFrame:
        made = frame(100, seed)
        columns = [made[old].alias(new) for old, new in zip(plain, names[2:], strict=True)]
        return pl.DataFrame([made["click"].alias(names[0]), made["user"].alias(names[1]), *columns])

    tables = Tables(
        train=rows(0),
        valid=rows(1),
        test=rows(2),
        fields=tuple(RawField(name=n, kind=k) for n, k in zip(names[2:], kinds, strict=True)),
        tasks=(Task(name="ctr", label=names[0]),),
        group=names[1],
    )
    dataset = make(tables, tmp_path / "in" / "the" / "middle")
    found = describe(dataset, {"train": {}, "valid": {}, "test": {}})
    facts = {fact.name: fact[1:] for fact in found.fields}
    for kind in range(3):
        assert len({facts[name] for name in names[2 + kind :: 3]}) == 1
    assert set(names[2:]) <= set(facts)
    np.testing.assert_array_equal(dataset.train.labels[:, 0], tables.train[names[0]])
    for k in range(6):
        np.testing.assert_array_equal(dataset.train.ids[:, k], dataset.train.ids[:, 0])
        np.testing.assert_array_equal(dataset.train.bags[k].ids, dataset.train.bags[0].ids)
    assert {path.parent.name for path in tmp_path.rglob("*.parquet")} == {"vocabulary"}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
def test_no_two_fields_have_one_file_and_none_leaves_its_folder(names):
    files = [vocabulary_file(Path("/data"), name) for name in names]
    assert len({str(file).lower() for file in files}) == len(names)
    assert all(
        file.parent == Path("/data/vocabulary")
        and len(file.name.encode()) < 200
        and not file.name.startswith(".")
        for file in files
    )


def test_the_missing_share_of_numbers_is_described(raw, tmp_path):
    facts = describe(make(raw, tmp_path), {"train": {}, "valid": {}, "test": {}}).fields
    share = raw.train["age"].is_null().mean()
    assert {fact.name: fact.missing for fact in facts}["age"] == pytest.approx(share)


@pytest.mark.parametrize("absent", [None, ""])
def test_a_row_without_a_group_is_a_group_of_its_own(raw, tmp_path, absent):
    def half(table: pl.DataFrame) -> pl.DataFrame:
        text = pl.col("user").cast(pl.String)
        return table.with_columns(
            user=pl.when(pl.col("age") > 40).then(text).otherwise(pl.lit(absent))
        )

    lost = {split: half(table) for split, table in raw.splits().items()}
    dataset = make(replace(raw, **lost), tmp_path)
    codes = [
        code
        for split, table in lost.items()
        for code, user in zip(dataset.split(split).groups, table["user"], strict=True)
        if not user
    ]
    known = {
        int(code)
        for split, table in lost.items()
        for code, user in zip(dataset.split(split).groups, table["user"], strict=True)
        if user
    }
    assert len(set(codes)) == len(codes)
    assert not known & set(codes)
    assert f"{len(codes):,} rows have no 'user'" in dataset.manifest["remarks"][-1]


def test_rows_without_a_group_are_spread_over_the_splits():
    users = pl.Series([None] * 500 + [f"u{i % 50}" for i in range(500)])
    parts = by_group(users, Fractions(0.1, 0.2, 1))
    alone = parts.head(500).value_counts().sort("<split>")["count"].to_list()
    assert sum(parts.to_list()) > 0
    assert 30 < alone[1] < 80
    assert 80 < alone[2] < 140
    of = pl.DataFrame({"user": users.tail(500), "part": parts.tail(500)})
    assert of.group_by("user").agg(pl.col("part").n_unique())["part"].max() == 1


@pytest.mark.parametrize("unclicked", [0.0, None])
def test_a_number_that_is_known_after_a_click_is_remarked_upon(raw, tmp_path, unclicked):
    def dwell(table: pl.DataFrame, seed: int) -> pl.DataFrame:
        seconds = pl.Series(np.random.default_rng(seed).exponential(5, len(table)))
        shown = pl.when(pl.col("click") == 1).then(seconds).otherwise(pl.lit(unclicked))
        return table.with_columns(age=shown)

    parts = {name: dwell(t, k) for k, (name, t) in enumerate(raw.splits().items())}
    remarks = make(replace(raw, **parts), tmp_path).manifest["remarks"]
    assert any("'age' alone has an AUC of" in remark for remark in remarks)
