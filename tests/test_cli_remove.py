"""`cvrbench ls`, `rm` and `data rm`: what there is, and getting rid of it."""

import shutil
from pathlib import Path

import pytest

from cvrbench.system.files import lock

SMALL = ("model.hidden=[8]", "model.tower=[]")


@pytest.fixture
def run(given):
    return given("model=shared_bottom", *SMALL)


def test_ls_shows_scores_of_what_is_asked_for_and_options_of_a_group(cvrbench, run):
    said = cvrbench("ls", "model=shared_bottom")
    assert run.name in said.out
    assert "cvr 0." in said.out
    assert cvrbench("ls", "model=ncs").code == 2  # no run has it
    assert cvrbench("ls", "modles").err == (
        "error: 'modles' is no group of options, and no filter KEY=VALUE. Did you mean 'models'?\n"
    )
    options = cvrbench("ls", "models", "objective", "--json").json()
    about = {one["option"]: one["about"] for one in options}
    assert about["mmoe"] == "shared experts, one softmax gate per task"
    assert {one["group"] for one in options} == {"model", "objective"}
    assert all(about.values())


def test_a_run_is_removed_once_somebody_says_so_and_nobody_works_at_it(cvrbench, run):
    asked = cvrbench("rm", run.name)
    assert (asked.code, run.is_dir()) == (2, True)
    assert "--yes" in asked.err
    with lock(run / "lock"):
        held = cvrbench("rm", run.name, "--yes")
    assert (held.code, (run / "record.json").is_file()) == (1, True)
    assert "a process is running it" in held.err
    assert cvrbench("rm", run.name, "--yes").code == 0
    assert not run.exists()
    assert run.parent.is_dir()


def test_links_are_never_followed(cvrbench, run, tmp_path):
    outside = Path(shutil.move(run, tmp_path / "outside"))
    run.symlink_to(outside)
    said = cvrbench("rm", run.name, "--yes")
    assert said.code == 1
    assert "is a link" in said.err
    assert (outside / "record.json").is_file()
    elsewhere = cvrbench("rm", str(outside), "--yes")
    assert (elsewhere.code, outside.is_dir()) == (2, True)


def test_prepared_data_are_removed_by_name(cvrbench, quick_data, tmp_path):
    copy = Path(shutil.copytree(quick_data, tmp_path / "copy"))
    prepared, *more = (f for f in (copy / "prepared").glob("synthetic-*") if f.is_dir())
    for folder in more:  # of other tests
        shutil.rmtree(folder)
    other = copy / "prepared" / f"synthetic_more{prepared.name[-11:]}"
    other.mkdir()
    picture = prepared.with_name(f"{prepared.name}.png")
    picture.touch()
    rows = cvrbench("data", "list", f"data_dir={copy}", "--json").json()
    (size,) = [row["bytes"] for row in rows if row["dataset"] == "synthetic"]
    assert size == sum(file.stat().st_size for file in prepared.rglob("*") if file.is_file())
    assert cvrbench("data", "rm", "synthetic", "--data-dir", str(copy), "--yes").code == 0
    assert (prepared.exists(), picture.exists(), other.is_dir()) == (False, False, True)
    twice = cvrbench("data", "rm", "synthetic", "--data-dir", str(copy), "--yes")
    assert (twice.code, "nothing is prepared of 'synthetic'" in twice.err) == (2, True)
