"""Ali-CCP from raw text to the prepared dataset: nothing lost, nothing invented, all accounted."""

import gzip
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler

from cvrbench.config.compose import compose
from cvrbench.data import writer as staging
from cvrbench.data.dataset import SPLITS, Dataset, verify
from cvrbench.data.generator import generate
from cvrbench.data.generator.world import GeneratorConfig
from cvrbench.data.raw import STRICT, Tolerance
from cvrbench.data.sources.aliccp import FIELDS, ingest
from cvrbench.errors import DataError
from tests.data.aliccp_files import Half, Row, draw, write

BAGS = ("109_14", "110_14", "127_14", "150_14", "210", "508", "509", "702", "853")
SMALL_BLOCK = 3_000


def prepare(
    raw: Path,
    target: Path,
    *overrides: str,
    name: str = "aliccp",
    tolerance: Tolerance = STRICT,
    block_bytes: int = SMALL_BLOCK,
) -> Dataset:
    config = compose([f"dataset={name}", *overrides]).config.dataset
    return ingest.prepare(
        config,
        raw,
        target / name,
        name=name,
        plain={},
        tolerance=tolerance,
        block_bytes=block_bytes,
    )


@dataclass
class Raw:
    """The rows of both halves and the folder that holds their files."""

    train: Half
    test: Half
    folder: Path

    def rows(self, *, keep_unclicked: bool = False) -> tuple[list[Row], list[Row]]:
        return tuple(
            [r for r in half.rows if keep_unclicked or not (r.conversion and not r.click)]
            for half in (self.train, self.test)
        )


def make(folder: Path, seed: int = 0, **sizes: int) -> Raw:
    train, test = draw(seed, **sizes), draw(seed, first_key=1000, **sizes)
    return Raw(train, test, write(folder / "raw", train, test, truth=True))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Raw:
    """What most tests read; nobody writes here."""
    return make(tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def raw(drawn, tmp_path) -> Raw:
    """A copy that a test may harm."""
    return replace(drawn, folder=shutil.copytree(drawn.folder, tmp_path / "raw"))


@pytest.fixture(scope="module")
def whole(drawn, tmp_path_factory) -> Dataset:
    """The store of a preparation that nothing befell."""
    return prepare(drawn.folder, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Raw:
    """Rows enough for the thresholds of the presets; nobody writes here."""
    return make(tmp_path_factory.mktemp("many"), seed=3, n_contexts=40, n_rows=900)


@pytest.fixture(scope="module")
def by_preset(many, tmp_path_factory) -> Callable[[str], Dataset]:
    """The stores of the presets, each prepared once."""
    folder = tmp_path_factory.mktemp("presets")
    return cache(lambda preset: prepare(many.folder, folder, name=f"aliccp_{preset}"))


def vocabulary(dataset: Dataset, field: str) -> list[str]:
    return pl.read_parquet(dataset.path / "vocabulary" / f"{field}.parquet")["value"].to_list()


def decoded(dataset: Dataset, split: str) -> list[dict[str, list[tuple[str, float]]]]:
    """Every row of a split as field -> values as text with their weights, by the store alone."""
    part, schema = dataset.split(split), dataset.schema
    words = {field.name: vocabulary(dataset, field.name) for field in schema.id_fields}
    rows = []
    for row in range(len(part)):
        values = {
            field.name: [(words[field.name][int(part.ids[row, k])], 1.0)]
            for k, field in enumerate(schema.categorical)
        }
        for field, bag in zip(schema.multivalued, part.bags, strict=True):
            at = int(part.contexts[row]) if field.shared else row
            here = slice(bag.offsets[at], bag.offsets[at + 1])
            values[field.name] = [
                (words[field.name][int(i)], float(w))
                for i, w in zip(bag.ids[here], bag.weights[here], strict=True)
            ]
        rows.append(values)
    return rows


def expected(row: Row, known: dict[str, set[str]]) -> dict[str, list[tuple[str, float]]]:
    """The same of a raw row: values that the training rows do not have are `<oov>`."""
    values = {}
    for field in FIELDS:
        name = field.name
        pairs = [(str(i), float(np.float32(w))) for i, w in row.values(name)]
        if name not in BAGS:
            pairs = [(pairs[0][0] if pairs else "<missing>", 1.0)]
        known_pairs = [(v if v in known[name] | {"<missing>"} else "<oov>", w) for v, w in pairs]
        values[name] = known_pairs
    return values


def group_of(row: Row, half: Half) -> int:
    """The user; a page view of nobody is a group of its own."""
    users = [identity for identity, _ in row.values("101")]
    return users[0] if users else -1 - half.contexts.index(row.context)


def by_split(dataset: Dataset, raw: Raw) -> dict[str, list[Row]]:
    """The raw rows of each split, in order, by the groups that the store put into validation."""
    train, test = raw.rows()
    valid = set(dataset.valid.groups.tolist())
    assert not valid & set(dataset.train.groups.tolist())
    return {
        "train": [row for row in train if group_of(row, raw.train) not in valid],
        "valid": [row for row in train if group_of(row, raw.train) in valid],
        "test": test,
    }


def assert_lossless(dataset: Dataset, raw: Raw) -> None:
    """Every kept row stands in the store with its labels, group, truth, ids and weights."""
    rows = by_split(dataset, raw)
    known = {
        field.name: {str(i) for row in rows["train"] for i, _ in row.values(field.name)}
        for field in FIELDS
    }
    truth = {id(r): t for h in (raw.train, raw.test) for r, t in zip(h.rows, h.truth, strict=True)}
    for name, part in rows.items():
        split, half = dataset.split(name), raw.test if name == "test" else raw.train
        assert split.labels.tolist() == [[row.click, row.conversion] for row in part]
        assert split.groups.tolist() == [group_of(row, half) for row in part]
        assert split.truth.tolist() == [list(truth[id(row)]) for row in part]
        assert decoded(dataset, name) == [expected(row, known) for row in part]


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_contexts=st.integers(20, 30),
    n_rows=st.integers(250, 350),
    block_bytes=st.sampled_from([500, 3_000, 20_000, 10_000_000]),
)
def test_every_id_weight_and_label_is_found_again(
    tmp_path_factory, seed, n_contexts, n_rows, block_bytes
):
    folder = tmp_path_factory.mktemp("round")
    raw = make(folder, seed, n_contexts=n_contexts, n_rows=n_rows)
    fraction = "dataset.valid_fraction=0.4"
    assert_lossless(prepare(raw.folder, folder, fraction, block_bytes=block_bytes), raw)


def test_a_store_does_not_depend_on_blocks_threads_or_where_the_files_lie(raw, whole, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in raw.folder.rglob("*.csv"):
        (flat / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    for half in ("train", "test"):
        with tarfile.open(tmp_path / f"sample_{half}.tar.gz", "w:gz") as archive:
            archive.add(raw.folder / f"sample_{half}", arcname=f"sample_{half}")
            archive.add(raw.folder / f"truth_{half}.csv", arcname=f"truth_{half}.csv")
    archives = tmp_path / "archives"
    archives.mkdir()
    for path in tmp_path.glob("*.tar.gz"):
        path.rename(archives / path.name)
    for place, size in ((raw.folder, 700), (flat, 5_000), (archives, 9_000)):
        other = prepare(place, tmp_path / f"by {place.name}", block_bytes=size)
        assert other.manifest["files"] == whole.manifest["files"]
        assert other.manifest["sources"] == whole.manifest["sources"]


def test_read_is_kept_plus_dropped(drawn, whole):
    broken = sum(r.conversion > r.click for half in (drawn.train, drawn.test) for r in half.rows)
    assert broken > 0
    assert whole.manifest["accounting"] == {
        "read": 300,
        "dropped: conversion = 1 with click = 0": broken,
    }
    assert sum(whole.schema.rows.values()) == 300 - broken


def test_rows_with_a_conversion_but_no_click_are_treated_as_wanted(raw, tmp_path):
    everything = raw.rows(keep_unclicked=True)
    n = sum(map(len, everything))
    conversions = sum(row.conversion for rows in everything for row in rows)
    clicked = sum(row.conversion * row.click for rows in everything for row in rows)
    policy = "dataset.unclicked_conversions="
    for name, left in (("keep", conversions), ("zero_conversion", clicked)):
        dataset = prepare(raw.folder, tmp_path / name, policy + name)
        assert sum(dataset.schema.rows.values()) == n
        assert sum(int(dataset.split(s).labels[:, 1].sum()) for s in SPLITS) == left
    with pytest.raises(DataError, match=r"line \d+: conversion = 1 with click = 0"):
        prepare(raw.folder, tmp_path / "refuse", policy + "refuse")


def test_the_longest_bags_keep_their_heaviest_values_in_order(raw, tmp_path):
    dataset = prepare(raw.folder, tmp_path / "short", "dataset.max_len=3")
    rows = by_split(dataset, raw)["train"]
    cut = 0
    for row, values in zip(rows, decoded(dataset, "train"), strict=True):
        for name in BAGS:
            pairs = [(str(i), float(np.float32(w))) for i, w in row.values(name)]
            order = sorted(range(len(pairs)), key=lambda k: (-pairs[k][1], k))[:3]
            assert values[name] == [pairs[k] for k in sorted(order)]
            cut += len(pairs) > 3
    assert cut > 50


def last(row: Row, name: str) -> tuple[int, float] | None:
    return next(iter(reversed(row.values(name))), None)


PRESETS = {"aitm": 12, "rechub": 10, "merlin": 1}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_keeps_the_last_value_and_its_authors_threshold(preset, many, by_preset):
    dataset = by_preset(preset)
    assert not dataset.schema.multivalued
    names = [field.name for field in dataset.schema.categorical]
    without = {"109_14", "110_14", "127_14", "150_14", "210"} if preset == "aitm" else set()
    assert names == [field.name for field in FIELDS if field.name not in without]
    train, test = many.rows()
    rows = {"train": train, "test": test}
    if preset == "aitm":  # a random tenth of the training rows validates
        assert 0.05 < len(dataset.valid) / len(train) < 0.15
        return
    counts = {name: [last(row, name) for row in train] for name in names}
    for name in names:
        seen = [pair[0] for pair in counts[name] if pair]
        known = {v for v in set(seen) if seen.count(v) >= PRESETS[preset]}
        assert set(vocabulary(dataset, name)[3:]) == {str(v) for v in known}
        column = names.index(name)
        words = vocabulary(dataset, name)
        absent = "<missing>" if preset == "merlin" else "<oov>"
        for row, identity in zip(train, dataset.train.ids[:, column], strict=True):
            pair = last(row, name)
            value = absent if pair is None else str(pair[0]) if pair[0] in known else "<oov>"
            assert words[int(identity)] == value
    if preset == "merlin":
        np.testing.assert_array_equal(dataset.valid.ids, dataset.test.ids)
        assert len(dataset.test) == len(rows["test"])
    else:
        assert len(dataset.valid) + len(dataset.test) == len(test)
        assert 0.4 < len(dataset.valid) / len(test) < 0.6


def test_aitm_counts_twelve(by_preset):
    dataset = by_preset("aitm")
    table = pl.read_parquet(dataset.path / "vocabulary" / "206.parquet")
    assert table["count"][3:].min() >= 12
    assert table["count"].sum() == len(dataset.train)


def full_of_weights(half: Half) -> Half:
    """The same half, but every context has a value of 109_14, and none of 110_14 but weight 3."""
    for context in half.contexts:
        others = [token for token in context.tokens if token[0] not in {"109_14", "110_14"}]
        weight = repr(1.5 + 0.01 * len(others))
        context.tokens = [*others, ("109_14", 446_200, weight), ("110_14", 1_000_000, "3.0")]
    return half


def test_rechub_scales_the_last_weight_as_scikit_learn_does(tmp_path):
    """Over the kept rows of all splits, an absent field being 0: torch-rechub's own steps."""
    train, test = (full_of_weights(draw(3, 40, 900, key)) for key in (0, 1000))
    raw = Raw(train, test, write(tmp_path / "raw", train, test))
    dataset = prepare(raw.folder, tmp_path, name="aliccp_rechub")
    names = [field.name for field in dataset.schema.numeric]
    assert names == [f"D{n}" for n in ("109_14", "110_14", "127_14", "150_14", *BAGS[5:])]
    weights = [
        [[(last(row, name[1:]) or (0, 0.0))[1] for name in names] for row in rows]
        for rows in raw.rows()
    ]
    scaler = MinMaxScaler().fit([*weights[0], *weights[1]])
    expected = scaler.transform(weights[0])
    assert expected.min(axis=0).tolist() == [0.0] * len(names)
    assert min(row[0] for row in weights[0]) > 1.0
    np.testing.assert_allclose(dataset.train.numeric, expected, rtol=1e-5, atol=1e-7)
    by_row = {tuple(np.float32(row).tolist()) for row in scaler.transform(weights[1])}
    assert len(dataset.valid) + len(dataset.test) == len(weights[1])
    for split in (dataset.valid, dataset.test):
        gaps = [min(np.abs(np.array(r) - row).max() for r in by_row) for row in split.numeric[:20]]
        assert max(gaps) < 1e-5


FAULTS = {
    "duplicate index": ("common", lambda lines: [*lines, lines[0]], "again"),
    "unknown index": (
        "skeleton",
        lambda lines: [lines[0].replace(lines[0].split(",")[3], "f" * 16), *lines[1:]],
        "is not in the common file",
    ),
    "blank line": ("skeleton", lambda lines: [*lines[:5], "", *lines[5:]], "line 6: the line is"),
    "feature_num": (
        "common",
        lambda lines: [lines[0].replace(",", ",9", 1), *lines[1:]],
        "feature_num",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stops_or_is_left_out_and_counted(raw, tmp_path, name):
    kind, spoil, words = FAULTS[name]
    base = "common_features_train.csv" if kind == "common" else "sample_skeleton_train.csv"
    path = next(raw.folder.rglob(base))
    path.write_text("".join(f"{line}\n" for line in spoil(path.read_text().splitlines())))
    (raw.folder / "truth_train.csv").unlink()
    with pytest.raises(DataError, match=rf"{base}, line \d+: .*{words}|{base}, {words}"):
        prepare(raw.folder, tmp_path / "stop")
    assert [p.name for p in (tmp_path / "stop").iterdir()] == [".locks"]
    dataset = prepare(raw.folder, tmp_path / "skip", tolerance=Tolerance("skip", 100))
    account = dataset.manifest["accounting"]
    dropped = sum(n for reason, n in account.items() if reason.startswith("dropped"))
    assert account["read"] == sum(dataset.schema.rows.values()) + dropped
    said = account if kind == "skeleton" else {"lines of the common files left out": 1}
    assert account.items() >= said.items()
    assert any(words.split(": ")[-1] in example for example in dataset.manifest["faults"])
    if kind == "skeleton":
        assert account[f"dropped: {name}"] == 1


def test_a_gzipped_file_under_a_plain_name_is_told_so(raw, tmp_path):
    path = next(raw.folder.rglob("common_features_test.csv"))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"common_features_test.csv, line 1: the file is gzipped"):
        prepare(raw.folder, tmp_path / "gz")


def test_files_under_each_others_names_are_told_so(raw, tmp_path):
    skeleton = next(raw.folder.rglob("sample_skeleton_test.csv"))
    common = next(raw.folder.rglob("common_features_test.csv"))
    skeleton.rename(tmp_path / "kept")
    common.rename(skeleton)
    (tmp_path / "kept").rename(common)
    words = "common_features_test.csv, line 1: 6 columns .*is this a skeleton file"
    with pytest.raises(DataError, match=words):
        prepare(raw.folder, tmp_path / "swapped", tolerance=STRICT)


def test_more_faults_than_allowed_stop_after_all(raw, tmp_path):
    path = next(raw.folder.rglob("sample_skeleton_train.csv"))
    path.write_text(path.read_text() + "\n" * 9)
    with pytest.raises(DataError, match=r"line 156: the line is blank.*fault 6, more than the 5"):
        prepare(raw.folder, tmp_path / "skip", tolerance=Tolerance("skip", 5))


def test_an_id_in_two_fields_is_found_where_their_border_is_not_known(raw, tmp_path):
    path = next(raw.folder.rglob("common_features_train.csv"))
    first, *others = path.read_text().splitlines()
    index = first.split(",")[0]
    extra = "109_14\x02300000\x031.0\x01101\x02300000\x031.0"
    others.append(f"{index[::-1]},2,{extra}")
    path.write_text("".join(f"{line}\n" for line in [first, *others]))
    with pytest.raises(DataError, match="id 300000 stands in field 101 and in field 109_14"):
        prepare(raw.folder, tmp_path / "both")


def test_a_truth_file_of_other_rows_is_refused(raw, tmp_path):
    path = raw.folder / "truth_test.csv"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in [lines[0], *reversed(lines[1:])]))
    with pytest.raises(DataError, match=r"truth_test.csv: sample ids differ"):
        prepare(raw.folder, tmp_path / "other")


def test_a_disk_that_is_too_small_is_known_before_it_is_full(raw, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        staging.shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.used, 1000)
    )
    with pytest.raises(DataError, match=r"needs about .* GB .*data_dir"):
        prepare(raw.folder, tmp_path / "full")


KILLER = """
import itertools, os, signal, sys
from pathlib import Path
from cvrbench.data.sources.aliccp import ingest
from cvrbench.data.writer import StoreWriter
from cvrbench.config.compose import compose
from cvrbench.data.raw import STRICT

raw, target, where, at = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
owner = {"append": StoreWriter, "finish": StoreWriter, "rename": Path}[where]
plain, numbers = getattr(owner, where), itertools.count(1)

def counted(*args, **kwargs):
    if next(numbers) == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*args, **kwargs)

setattr(owner, where, counted)
config = compose(["dataset=aliccp"]).config.dataset
ingest.prepare(config, raw, target, name="aliccp", plain={}, tolerance=STRICT, block_bytes=3000)
"""


@pytest.mark.parametrize(("where", "at"), [("append", 200), ("finish", 1), ("rename", 1)])
def test_a_killed_preparation_begins_anew_and_leaves_nothing_behind(
    raw, whole, tmp_path, where, at
):
    """Even where what it left is damaged: nothing of it is read."""
    target = tmp_path / "killed" / "aliccp"
    command = [sys.executable, "-c", KILLER, str(raw.folder), str(target), where, str(at)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not target.exists()
    left = [p for p in (target.parent / ".preparing-aliccp").rglob("*") if p.is_file()]
    assert left
    for path in left:
        path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    again = prepare(raw.folder, target.parent)
    assert again.manifest["files"] == whole.manifest["files"]
    assert again.manifest["accounting"] == whole.manifest["accounting"]
    assert sorted(path.name for path in target.parent.iterdir()) == [".locks", "aliccp"]
    assert verify(target) == len(whole.manifest["files"])


def test_what_is_prepared_of_the_same_files_is_not_prepared_again(raw, tmp_path):
    dataset = prepare(raw.folder, tmp_path)
    manifest = dataset.path / "manifest.json"
    before = manifest.stat().st_mtime_ns
    prepare(raw.folder, tmp_path)
    assert manifest.stat().st_mtime_ns == before
    path = next(raw.folder.rglob("sample_skeleton_test.csv"))
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match="line 151: the line is blank"):
        prepare(raw.folder, tmp_path)
    assert manifest.stat().st_mtime_ns == before  # a failure leaves the old one
    skipped = prepare(raw.folder, tmp_path, tolerance=Tolerance("skip", 1))
    assert skipped.manifest["accounting"]["dropped: blank line"] == 1
    with pytest.raises(DataError, match="line 151"):
        prepare(raw.folder, tmp_path)


def test_a_stopped_preparation_leaves_nothing_behind(raw, tmp_path):
    def stop(_progress):
        raise KeyboardInterrupt

    config = compose(["dataset=aliccp"]).config.dataset
    with pytest.raises(KeyboardInterrupt):
        ingest.prepare(
            config,
            raw.folder,
            tmp_path / "stopped" / "aliccp",
            name="aliccp",
            plain={},
            tolerance=STRICT,
            on_rows=stop,
        )
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [".locks"]


def test_the_independent_fixture_is_read_with_its_totals(raw_data, tmp_path):
    """Files by another program after the same specification; its manifest says what is in them."""
    folder = raw_data / "aliccp_fixture"
    manifest = json.loads((folder / "manifest.json").read_text())
    dataset = prepare(folder, tmp_path, block_bytes=100_000)
    totals = {name: entry["found"] for name, entry in dataset.manifest["totals"].items()}
    for half in ("train", "test"):
        says = manifest[half]
        assert totals[f"{half} skeleton rows"] == says["rows"]
        assert totals[f"{half} clicks"] == says["click"]
        assert totals[f"{half} conversions"] == says["buy"] + says["anomaly"]
        assert totals[f"{half} conversions without a click"] == says["anomaly"]
        assert totals[f"{half} common rows"] == says["common_rows"]
    kept = [dataset.train, dataset.valid]
    names = [field.name for field in dataset.schema.multivalued]
    for name in ("508", "509", "702", "853"):
        values = sum(len(split.bags[names.index(name)].ids) for split in kept)
        key = f"t{name}" if name == "853" else f"c{name}"
        # The dropped rows, 12 of 4,000, take a few values with them.
        assert 0.98 * manifest["train"][key] < values <= manifest["train"][key]
    assert dataset.test.truth.shape == (999, 2)


PREPARER = """
import resource, sys
from pathlib import Path
from cvrbench.config.compose import compose
from cvrbench.data.sources.aliccp import ingest
from cvrbench.data.raw import STRICT

config = compose(["dataset=aliccp"]).config.dataset
made = ingest.prepare(
    config, Path(sys.argv[1]), Path(sys.argv[2]), name="aliccp", plain={}, tolerance=STRICT
)
print(sum(made.schema.rows.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_five_times_the_rows_need_no_more_memory(tmp_path):
    peaks = {}
    for rows in (200_000, 1_000_000):
        raw = tmp_path / f"raw {rows}"
        options = GeneratorConfig(rows=rows * 4 // 5, test_rows=rows // 5, seed=0, cvr=0.1)
        generate(options, raw, workers=2)
        command = [sys.executable, "-c", PREPARER, str(raw), str(tmp_path / f"out {rows}")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        kept, peak = map(int, done.stdout.split())
        assert rows * 0.999 < kept <= rows
        peaks[rows] = peak
    assert peaks[1_000_000] <= 1.3 * peaks[200_000]
