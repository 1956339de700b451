"""Sources read the true formats, whole, wherever they lie, and refuse what is not theirs."""

import numpy as np
import polars as pl
import pytest

from cvrbench.config.compose import compose
from cvrbench.data.raw import Fractions, by_row
from cvrbench.data.sources import kuaishou, load_raw, small_tables
from cvrbench.errors import ConfigError, DataError
from cvrbench.metrics.evaluation import selectable
from tests.data.checks import Tables, check
from tests.data.raw_files import FILES, write


def load(name: str, raw, *overrides: str):
    config = compose([f"dataset={name}", "dataset.min_count=1", *overrides]).config.dataset
    return Tables.of(load_raw(config, raw))


@pytest.mark.parametrize("kind", ["plain", "gz", "zip", "tar"])
@pytest.mark.parametrize("name", FILES)
def test_a_source_is_read_alike_from_folders_and_archives(name, kind, tmp_path):
    plain = load(name, write(FILES[name](), tmp_path / "plain"))
    other = load(name, write(FILES[name](), tmp_path / kind, kind))
    for split, frame in plain.splits().items():
        assert frame.equals(other.splits()[split])
    assert plain.sources == other.sources
    check(plain, name)


@pytest.mark.parametrize("name", FILES)
def test_rows_read_are_rows_kept_plus_rows_dropped(name, tmp_path):
    raw = load(name, write(FILES[name](), tmp_path))
    kept = sum(len(frame) for frame in raw.splits().values())
    dropped = sum(n for reason, n in raw.accounting.items() if reason.startswith("dropped"))
    assert raw.accounting["read"] == kept + dropped
    metric = compose([f"dataset={name}"]).config.dataset.metric
    assert metric in selectable(raw.tasks)  # by which a sweep chooses


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["gz", "zip", "tar"])
def test_a_truncated_file_is_named(name, kind, tmp_path):
    raw = write(FILES[name](), tmp_path, kind)
    file = raw if raw.is_file() else min(raw.iterdir())
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=f"{file.name}.*(truncated|damaged)"):
        load(name, raw)


@pytest.mark.parametrize("name", FILES)
def test_the_wrong_archive_is_told_by_what_is_in_it(name, tmp_path):
    other = next(n for n in FILES if n != name)
    raw = write(FILES[other](), tmp_path, "zip")
    found_there = min(FILES[other]())
    with pytest.raises(DataError, match=r"(?s)has no file.*found there.*" + found_there[:12]):
        load(name, raw)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load(name, tmp_path / "nowhere")


def test_a_missing_column_is_named(tmp_path):
    files = FILES["kuairand"]()
    log = min(files)
    files[log] = files[log].replace("long_view", "other", 1)
    with pytest.raises(DataError, match=r"log_standard.*no column 'long_view'"):
        load("kuairand", write(files, tmp_path))


def test_a_label_of_two_is_named_with_its_row(tmp_path):
    files = FILES["hillstrom"]()
    (name,) = files
    lines = files[name].splitlines()
    lines[8] = "3,2) $100 - $200,1.0,1,0,Rural,0,Web,No E-Mail,2,0,0"
    with pytest.raises(DataError, match=r"Hillstrom.*'visit' holds 2 .*row 8"):
        load("hillstrom", write({name: "\n".join(lines)}, tmp_path))


def test_a_line_with_too_few_values_is_named_by_its_number(tmp_path):
    files = FILES["census_income"]()
    first = min(files)
    lines = files[first].splitlines()
    lines[4] = "1, 2, 3"
    files[first] = "\n".join(lines)
    with pytest.raises(DataError, match=r"census-income.data.*42 values.*line 5 has 3"):
        load("census_income", write(files, tmp_path))


def test_an_unknown_income_is_refused(tmp_path):
    files = FILES["adult"]()
    files["adult.data"] = files["adult.data"].replace(">50K", ">60K", 1)
    with pytest.raises(DataError, match=r"adult.data.*'>60K'"):
        load("adult", write(files, tmp_path))


def test_kuairand_drops_exact_duplicates_before_the_split(tmp_path):
    files = FILES["kuairand"]()
    log = min(files)
    lines = files[log].splitlines()
    files[log] = "\n".join([*lines, *lines[1:51]])
    raw = load("kuairand", write(files, tmp_path))
    assert raw.accounting["dropped: exact duplicate"] == 50
    assert raw.accounting["read"] == 650


def test_kuairand_days_keep_the_future_out_of_training(tmp_path):
    raw = load("kuairand", write(FILES["kuairand"](), tmp_path))
    assert raw.train["date"].max() < raw.valid["date"].min()
    assert raw.valid["date"].max() < raw.test["date"].min()


LEAKY = {"play_time_ms", "profile_stay_time", "comment_stay_time", "is_hate", "is_forward"}


def test_kuairand_has_no_feedback_among_its_features(tmp_path):
    raw = load("kuairand", write(FILES["kuairand"](), tmp_path))
    names = {field.name for field in raw.fields}
    assert not names & LEAKY
    assert not {name for name in names if name in {"is_click", "is_like", "long_view"}}


def test_kuairand_by_user_promises_and_keeps_users_apart(tmp_path):
    raw = load("kuairand", write(FILES["kuairand"](), tmp_path), "dataset.split=user")
    check(raw, "kuairand")
    assert raw.group_disjoint


def test_kuairand_has_a_task_per_conversion(tmp_path):
    raw = load("kuairand_three", write(FILES["kuairand"](), tmp_path))
    assert [task.name for task in raw.tasks] == ["ctr", "cvr", "like"]
    assert [task.joint for task in raw.tasks] == [None, "ctcvr", "ct_like"]


def test_census_labels_are_what_the_mmoe_paper_predicts(tmp_path):
    raw = load("census_education", write(FILES["census_income"](), tmp_path))
    names = {field.name for field in raw.fields}
    assert not names & {"marital_stat", "instance_weight", "income_50k", "education"}
    wrong = raw.test.filter(pl.col("college") != pl.col("education").str.contains("egree"))
    assert set(wrong["education"]) <= {"Some college but no degree"}


def test_census_can_validate_on_half_of_the_official_test(tmp_path):
    folder = write(FILES["census_income"](), tmp_path)
    raw = load("census_income", folder, "dataset.validation=test_half")
    assert [len(f) for f in raw.splits().values()] == [400, 200, 200]


def test_census_bins_are_cut_at_quantiles_of_training_rows_alone(tmp_path):
    files = FILES["census_income"]()
    before = load("census_income", write(files, tmp_path / "before"))
    first, column = min(files), small_tables.CENSUS_COLUMNS.index("age")
    lines = [line.split(", ") for line in files[first].splitlines()]
    for values, split in zip(lines, by_row(len(lines), Fractions(0.1, 0.0, 0)), strict=True):
        values[column] = "99" if split == 1 else values[column]
    files[first] = "\n".join(map(", ".join, lines)) + "\n"
    after = load("census_income", write(files, tmp_path / "after"))
    assert after.valid["age"].n_unique() == 1 < before.valid["age"].n_unique()
    assert after.train["age_bin"].equals(before.train["age_bin"])


FEEDBACK = {*kuaishou.SHORT_NAMES, "is_click", "is_forward", "is_hate", "play_time_ms"}


@pytest.mark.parametrize("conversions", [("watch_ratio",), ("long_view", "watch_ratio")])
def test_kuairand_has_the_watch_ratio_of_clicks(tmp_path, conversions):
    folder = write(FILES["kuairand"](), tmp_path)
    raw = load("kuairand_watch", folder, f"dataset.conversions=[{','.join(conversions)}]")
    log = pl.read_csv(folder / "log_standard_4_25_to_5_08_pure.csv").sort("time_ms")
    found = pl.concat(raw.splits().values()).sort("time_ms")["watch_ratio"].to_numpy()
    play, duration, click = (log[c].to_numpy() for c in ("play_time_ms", "duration_ms", "is_click"))
    np.testing.assert_allclose(found, np.minimum(play / duration, 1) * click)
    assert 0 < (found == 1).sum() < (found > 0).sum()
    ratios = {task.label for task in raw.tasks if task.is_ratio}
    assert ratios == {"watch_ratio"}
    assert len(raw.tasks) == 1 + len(conversions)
    assert not FEEDBACK & {field.name for field in raw.fields}


def test_a_ratio_is_not_counted_before_an_exposure():
    with pytest.raises(ConfigError, match="watch_ratio is no count"):
        compose(["dataset=kuairand_history", "dataset.conversions=[watch_ratio]"])
