"""Loaders of large public logs: read as streams, to the last value, and never half."""

import gzip
import io
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cvrbench.config.compose import compose
from cvrbench.data.archives import locate
from cvrbench.data.dataset import SPLITS, Dataset
from cvrbench.data.prepare import prepare
from cvrbench.data.raw import RawStream, time_cuts
from cvrbench.data.sources import delimited, kuaishou, load_raw
from cvrbench.data.sources.delimited import Layout, frames
from cvrbench.errors import DataError
from cvrbench.metrics.evaluation import selectable
from tests.data import public_files
from tests.data.public_files import FILES
from tests.data.raw_files import write


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Many blocks even of small files."""
    plain = delimited.frames.__kwdefaults__
    monkeypatch.setitem(plain, "block_bytes", 8_000)


def stream(name: str, folder: Path, *overrides: str) -> RawStream:
    words = [f"dataset={name}", "dataset.min_count=1", *overrides]
    raw = load_raw(compose(words).config.dataset, folder)
    assert isinstance(raw, RawStream)
    return raw


def make(name: str, folder: Path, *overrides: str) -> Dataset:
    source = name.removesuffix("_watch")
    raw = stream(name, write(FILES[source](), folder / "raw"), *overrides)
    return prepare(raw, name=name, target=folder / "out", config={})


def column(dataset: Dataset, split: str, field: str) -> list[str]:
    """A categorical field's values as text."""
    names = [f.name for f in dataset.schema.categorical]
    words = pl.read_parquet(dataset.path / "vocabulary" / f"{field}.parquet")["value"].to_list()
    return [words[i] for i in dataset.split(split).ids[:, names.index(field)]]


def number(dataset: Dataset, split: str, field: str) -> np.ndarray:
    """A numeric field on its own scale."""
    names = [f.name for f in dataset.schema.numeric]
    at = dataset.schema.numeric[names.index(field)]
    return dataset.split(split).numeric[:, names.index(field)] * at.std + at.mean


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Callable[[str], Dataset]:
    """Each log prepared once from its files as they are."""
    return cache(lambda name: make(name, tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize("name", FILES)
def test_a_log_is_accounted_for(name, plain):
    dataset = plain(name)
    account = dataset.manifest["accounting"]
    dropped = sum(n for reason, n in account.items() if reason.startswith("dropped"))
    assert account["read"] == sum(dataset.schema.rows.values()) + dropped
    # What a sweep chooses by is a metric that there is.
    metric = compose([f"dataset={name}"]).config.dataset.metric
    assert metric in selectable(dataset.schema.tasks)


FROM_ARCHIVES = ("tiktok", "tenrec")
"""Logs that the default session reads from archives, too; `nox -s slow` reads all from them."""
PLACES = [
    pytest.param(
        name,
        kind,
        marks=[pytest.mark.slow] if kind != "gz" and name not in FROM_ARCHIVES else [],
    )
    for name in FILES
    for kind in ("gz", "zip", "tar")
]


@pytest.mark.parametrize(("name", "kind"), PLACES)
def test_a_log_is_the_same_from_everywhere(name, kind, plain, tmp_path):
    dataset = plain(name)
    raw = stream(name, write(FILES[name](), tmp_path / kind, kind))
    other = prepare(raw, name=name, target=tmp_path / f"out {kind}", config={})
    assert other.manifest["files"] == dataset.manifest["files"]
    assert other.manifest["accounting"] == dataset.manifest["accounting"]


@pytest.mark.parametrize("name", FILES)
def test_chunks_are_small_and_can_be_read_twice(name, tmp_path):
    raw = stream(name, write(FILES[name](), tmp_path))
    once, again = (list(raw.chunks(Counter())) for _ in range(2))
    assert len(once) > 6
    assert max(len(chunk.frame) for chunk in once) < 300
    for one, other in zip(once, again, strict=True):
        assert one.split == other.split
        assert one.frame.equals(other.frame)


@pytest.mark.parametrize("name", FILES)
def test_a_torn_line_is_named(name, tmp_path):
    files = FILES[name]()
    base = next(iter(files))
    body = files[base].splitlines()
    body[20] = body[20][: len(body[20]) // 2]
    files[base] = "\n".join(body) + "\n"
    with pytest.raises(DataError, match=rf"{base}.*line 21"):
        prepare(stream(name, write(files, tmp_path)), name=name, target=tmp_path / "out", config={})


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_and_a_truncated_archive_are_named(name, tmp_path):
    files = FILES[name]()
    last = list(files)[-1]
    with pytest.raises(DataError, match="has no file"):
        stream(name, write({"readme.txt": "x\n"}, tmp_path / "none"))
    folder = write(files, tmp_path / "gz", "gz")
    path = next(folder.rglob(f"{last}.gz"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{last}.gz is damaged or truncated"):
        prepare(stream(name, folder), name=name, target=tmp_path / "out", config={})
    assert not (tmp_path / "out").exists()


def test_tiktok_is_cut_by_time_and_keeps_its_values(tmp_path):
    dataset = make("tiktok", tmp_path)
    rows = public_files.tiktok_rows()
    times = sorted(int(row["create_time"]) for row in rows)
    valid_from, test_from = times[round(600 * 0.8)], times[round(600 * 0.9)]
    parts = {
        "train": [r for r in rows if r["create_time"] < valid_from],
        "valid": [r for r in rows if valid_from <= r["create_time"] < test_from],
        "test": [r for r in rows if r["create_time"] >= test_from],
    }
    known = {str(row["music_id"]) for row in parts["train"]}
    for split, part in parts.items():
        labels = dataset.split(split).labels.tolist()
        assert labels == [[row["finish"], row["like"]] for row in part]
        values = [str(row["music_id"]) if row["music_id"] != -1 else "<missing>" for row in part]
        expected = [v if v in known | {"<missing>"} else "<oov>" for v in values]
        assert column(dataset, split, "music_id") == expected
        durations = np.log1p([float(row["video_duration"]) for row in part])
        np.testing.assert_allclose(number(dataset, split, "duration_log"), durations, atol=1e-5)
    assert [task.parent for task in dataset.schema.tasks] == [None, None]


def test_tiktok_reads_real_lines(raw_data, tmp_path):
    sample = raw_data / "samples" / "deepctr" / "byterec_sample.txt"
    (tmp_path / "final_track2_train.txt").write_bytes(sample.read_bytes())
    account = Counter[str]()
    table = pl.concat(chunk.frame for chunk in stream("tiktok", tmp_path).chunks(account))
    real = [line.split("\t") for line in sample.read_text().splitlines()]
    assert account == {"read": len(real)}
    assert int(table["finish"].sum()) == sum(line[6] == "1" for line in real)
    assert table["item_city"].null_count() == sum(line[4] == "-1" for line in real)


def test_tenrec_keeps_histories_without_padding(tmp_path):
    dataset = make("tenrec", tmp_path, "dataset.unclicked_conversions=keep")
    rows = public_files.tenrec_rows()
    bag = dataset.train.bags[0]
    path = dataset.path / "vocabulary" / "history.parquet"
    words = pl.read_parquet(path)["value"].to_list()
    histories = Counter()
    for row in range(len(dataset.train)):
        ids = bag.ids[bag.offsets[row] : bag.offsets[row + 1]]
        item = column(dataset, "train", "item_id")[row] if row < 20 else ""
        if item:
            histories[item, tuple(words[i] for i in ids)] += 1
    raw = {
        (str(r["item_id"]), tuple(str(r[f"hist_{k}"]) for k in range(1, 11) if r[f"hist_{k}"]))
        for r in rows
    }
    assert set(histories) <= raw
    sizes = [len(dataset.split(split)) / len(rows) for split in SPLITS]
    np.testing.assert_allclose(sizes, [0.8, 0.1, 0.1], atol=0.04)


def test_tenrec_samples_negatives_only_when_asked_to(tmp_path):
    rows = public_files.tenrec_rows()
    clicks = sum(int(row["click"]) for row in rows)
    dataset = make("tenrec", tmp_path, "dataset.negatives_per_positive=1.5")
    labels = np.concatenate([dataset.split(split).labels[:, 0] for split in SPLITS])
    assert labels.sum() == clicks
    assert abs((labels == 0).sum() / clicks - 1.5) < 0.25
    account = dataset.manifest["accounting"]
    assert account["dropped: sampled out, click = 0"] == len(rows) - len(labels)


def test_tenrec_by_user_shares_no_user(tmp_path):
    dataset = make("tenrec", tmp_path, "dataset.split=user")
    users = [set(dataset.split(split).groups.tolist()) for split in SPLITS]
    assert not users[0] & users[1]
    assert not users[0] & users[2]
    assert not users[1] & users[2]


def test_criteo_counts_sales_after_clicks_by_day(tmp_path):
    rows = public_files.criteo_rows()
    day = 86_400
    for word, label in (
        ("conversion_and_click", lambda r: r["conversion"] * r["click"]),
        ("attribution", lambda r: r["attribution"]),
    ):
        dataset = make("criteo_attribution", tmp_path / word, f"dataset.conversion={word}")
        bounds = {"train": (0, 23), "valid": (23, 25), "test": (25, 28)}
        for split, (first, last) in bounds.items():
            part = [r for r in rows if first * day <= r["timestamp"] < last * day]
            labels = dataset.split(split).labels.tolist()
            assert labels == [[r["click"], label(r)] for r in part]
        late = sum(r["timestamp"] >= 28 * day for r in rows)
        assert dataset.manifest["accounting"]["dropped: after the last day"] == late > 0
        names = {field.name for field in (*dataset.schema.id_fields, *dataset.schema.numeric)}
        assert not names & {"conversion_id", "attribution", "click_pos", "click_nb", "cpo", "cost"}


def test_kuairec_tests_on_the_small_matrix_and_trains_on_none_of_its_pairs(tmp_path):
    tables = public_files.kuairec_tables()
    big, small = tables["big_matrix.csv"], tables["small_matrix.csv"]
    pairs = {(row["user_id"], row["video_id"]) for row in small}
    kept = [row for row in big if (row["user_id"], row["video_id"]) not in pairs]
    dataset = make("kuairec", tmp_path)
    assert len(dataset.test) == len(small)
    assert dataset.manifest["accounting"]["dropped: pair is tested"] == len(big) - len(kept) > 0
    assert len(dataset.train) + len(dataset.valid) == len(kept)
    rows = kept[: len(dataset.train)]  # the file is in the order of time
    assert dataset.train.labels.tolist() == [
        [int(row["watch_ratio"] > 0.5), int(row["watch_ratio"] > 2)] for row in rows
    ]
    assert column(dataset, "train", "video_id") == [str(row["video_id"]) for row in rows]
    assert column(dataset, "train", "follow_user_num_range") == ["[10,50)"] * len(rows)
    bag = dataset.train.bags[0]
    path = dataset.path / "vocabulary" / "categories.parquet"
    words = pl.read_parquet(path)["value"].to_list()
    for row, ids in zip(rows, np.split(bag.ids, bag.offsets[1:-1]), strict=True):
        video = int(row["video_id"])
        assert [words[i] for i in ids] == [str(video % 7), str(video % 5)]


def test_aliexpress_joins_pages_in_any_order(tmp_path):
    tables = public_files.aliexpress_tables()
    dataset = make("aliexpress", tmp_path)
    assert dataset.manifest["accounting"]["dropped: search id has no page"] == 6
    pages = {int(r["search_id"]): r for r in tables["nl_user_test.csv"]}
    items = [r for r in tables["nl_item_test.csv"] if r["search_id"] in pages]
    assert dataset.test.labels.tolist() == [
        [int(r["item_49"] >= 1), int(r["item_49"] == 2)] for r in items
    ]
    user_7 = [float(pages[int(r["search_id"])]["user_9"]) for r in items]
    np.testing.assert_allclose(number(dataset, "test", "user_9"), user_7, atol=1e-5)
    item_2 = [float(r["item_2"]) for r in items]
    np.testing.assert_allclose(number(dataset, "test", "item_2"), item_2, atol=1e-5)
    assert column(dataset, "test", "item_42") == [str(r["item_42"]) for r in items]
    assert (len(dataset.schema.categorical), len(dataset.schema.numeric)) == (16, 63)
    assert not set(dataset.train.groups.tolist()) & set(dataset.valid.groups.tolist())


def test_aliexpress_is_read_from_the_providers_zip_of_zips(tmp_path):
    files = FILES["aliexpress"]()
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        for name, content in files.items():
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as one:
                one.writestr(name, content)
            path = f"aliexpress_NL_datasets/{name.replace('.csv', '.zip')}"
            archive.writestr(path, inner.getvalue())
    (tmp_path / "aliexpress_NL_datasets.zip").write_bytes(outer.getvalue())
    plain = list(stream("aliexpress", write(files, tmp_path / "plain")).chunks(Counter()))
    zipped = list(stream("aliexpress", tmp_path / "aliexpress_NL_datasets.zip").chunks(Counter()))
    assert all(one.frame.equals(other.frame) for one, other in zip(plain, zipped, strict=True))


def test_kuairand_27k_is_cut_by_day_over_its_parts(tmp_path):
    tables = public_files.kuairand_large("27k")
    log = [row for name, rows in tables.items() if name.startswith("log") for row in rows]
    dataset = make("kuairand_27k", tmp_path)
    parts = {
        "train": [r for r in log if r["date"] < 20220425],
        "valid": [r for r in log if 20220425 <= r["date"] < 20220501],
        "test": [r for r in log if r["date"] >= 20220501],
    }
    for split, part in parts.items():
        clicks = [r["is_click"] for r in part]
        views = [r["long_view"] * r["is_click"] for r in part]
        assert dataset.split(split).labels.tolist() == [list(p) for p in zip(clicks, views)]  # noqa: B905
    authors = [str(int(r["video_id"]) % 9) for r in parts["test"]]
    assert column(dataset, "test", "author_id") == authors


def test_a_value_of_another_type_is_named_with_its_line_and_column(tmp_path):
    rows = public_files.tenrec_rows()
    rows[700]["age"] = "old"
    path = tmp_path / "ctr_data_1M.csv"
    path.write_text(public_files.text(rows))
    with pytest.raises(DataError, match=r"line 702: column 'age' holds 'old', expected a whole"):
        list(stream("tenrec", tmp_path).chunks(Counter()))
    rows[700]["age"], rows[700]["item_id"] = 1, ""
    path.write_text(public_files.text(rows))
    with pytest.raises(DataError, match="line 702: column 'item_id' holds ''"):
        list(stream("tenrec", tmp_path).chunks(Counter()))
    path.write_text(public_files.text(rows).replace("video_category", "category", 1))
    with pytest.raises(DataError, match="no column 'video_category'"):
        list(stream("tenrec", tmp_path).chunks(Counter()))


def test_a_label_that_is_no_label_is_named(tmp_path):
    rows = public_files.tiktok_rows()
    rows[5]["like"] = 7
    path = tmp_path / "final_track2_train.txt"
    path.write_text(public_files.text(rows, separator="\t", header=False))
    with pytest.raises(DataError, match=r"label column 'like' holds 7.*a label is 0 or 1"):
        list(stream("tiktok", tmp_path).chunks(Counter()))


def test_lines_are_the_same_whatever_the_size_of_the_blocks(tmp_path):
    rows = public_files.tenrec_rows()
    content = public_files.text(rows).removesuffix("\n")  # the last line without its end
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(content.encode()))
    (file,) = locate(tmp_path, ["log.csv"], dataset="x").values()
    layout = Layout(types={"user_id": pl.Int64, "age": pl.Int64})
    for size in (100, 1_000, 100_000):
        table = pl.concat(frames(file, layout, block_bytes=size))
        assert table["user_id"].to_list() == [row["user_id"] for row in rows]
        assert table["age"].to_list() == [row["age"] for row in rows]


@pytest.mark.parametrize("n", [1_000, 3_000_000])
def test_cuts_in_time_leave_the_wanted_shares(n):
    rng = np.random.default_rng(0)
    times = pl.Series(rng.integers(0, 10**9, n))
    pieces = (times.slice(start, 250_000) for start in range(0, n, 250_000))
    cuts = time_cuts(pieces, valid_fraction=0.1, test_fraction=0.2)
    shares = [float((times < cuts[0]).mean()), float((times >= cuts[1]).mean())]
    np.testing.assert_allclose(shares, [0.7, 0.2], atol=2e-3)


def test_kuairec_has_the_watch_ratio_itself_of_every_row(tmp_path):
    raw = stream("kuairec_watch", write(FILES["kuairec"](), tmp_path / "raw"))
    table = pl.concat(chunk.frame for chunk in raw.chunks(Counter()) if chunk.split == "test")
    small = pl.DataFrame(public_files.kuairec_tables()[kuaishou.SMALL], infer_schema_length=None)
    both = table.join(
        small.select("user_id", "video_id", "watch_ratio"), on=["user_id", "video_id"]
    )
    assert len(both) == len(small)
    assert both["watched_share"].to_list() == both["watch_ratio"].clip(upper_bound=1).to_list()
    assert both["watched"].to_list() == (both["watch_ratio"] > 0.5).cast(pl.UInt8).to_list()
    assert [(task.name, task.parent, task.is_ratio) for task in raw.tasks] == [
        ("ctr", None, False),
        ("watch", None, True),
    ]
    assert not {"watch_ratio", "play_duration"} & {field.name for field in raw.fields}
    dataset = make("kuairec_watch", tmp_path)
    assert dataset.schema.has_ratios
