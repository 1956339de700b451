"""`cvrbench show`: one run, its masks, or its gates and gradients, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cvrbench.cli.console import out
from cvrbench.runs.record import RunRecord
from tests.report.mask_records import drawn, masked_record

SMALL = ("model=ncs", "model.hidden=[8]", "model.tower=[]")
HOSTILE = "log-[bold]ncs[/bold]-[/red]-$x^{-s0"


def store(record: RunRecord, results: str = "results") -> Path:
    """Put a record where `show` looks for it, with masks that fit it."""
    folder = Path(results, "runs", record.run_id.replace("/", "_"))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"config": record.config, "choices": {}}))
    (folder / "record.json").write_text(json.dumps(record.to_json()))
    if "layers" in record.diagnostics:
        keep = drawn(len(record.tasks), 0.5, record.seed)
        save_file(
            {f"keep.{name}": mask for name, mask in keep.items()}, folder / "masks.safetensors"
        )
    return folder


@pytest.fixture
def width(monkeypatch):
    """Print as wide as a terminal is."""
    return lambda columns: monkeypatch.setattr(out, "width", columns)


def test_a_trained_runs_masks_are_shown_and_drawn(cvrbench, given):
    name = given(*SMALL).name
    said = cvrbench("show", "masks", name[-6:], "--plot", "figures")
    assert said.code == 0
    for words in ("trunk_0", "overlap", "only cvr", "dead units, ctr", "rounds of the search"):
        assert words in said.out
    drawings = {file.name for file in Path("figures").iterdir()}
    figures = ("layers", "rounds", "connections", "fields")
    assert drawings == {f"{name}-{figure}.{e}" for figure in figures for e in ("png", "svg")}
    assert "user_id" in Path("figures", f"{name}-fields.svg").read_text()
    assert all(str(Path("figures", file)) in said.err for file in drawings)


def test_a_trained_run_is_summed_up_and_points_to_more(cvrbench, given):
    name = given(*SMALL).name
    said = cvrbench("show", name)
    assert "overlap ctr-cvr" in said.out
    assert f"cvrbench show masks {name}" in said.out
    assert "{" not in said.out  # no plain dump of what a record holds


def test_json_has_the_facts_and_who_chose_which_round(cvrbench):
    record = masked_record()
    store(record)
    (found,) = cvrbench("show", "masks", record.run_id, "--json").json()
    assert found["layers"] == record.diagnostics["layers"]
    assert [one["chosen"] for one in found["rounds"]] == [[], ["ctr", "cvr"]]
    assert found["tasks"] == ["ctr", "cvr"]


def test_without_the_dataset_the_masks_are_drawn_and_their_fields_have_no_names(cvrbench):
    record = masked_record()
    store(record)
    said = cvrbench("show", "masks", record.run_id, "--plot", "figures")
    assert said.code == 0
    assert "no names of input fields" in said.err
    assert len(list(Path("figures").glob("*-connections.*"))) == 2
    assert not list(Path("figures").glob("*-fields.*"))


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"none")])
def test_lost_masks_are_one_line(cvrbench, damage):
    damage(store(masked_record()) / "masks.safetensors")
    assert cvrbench("show", "masks", "ncs").code == 0
    said = cvrbench("show", "masks", "ncs", "--plot", "figures")
    assert said.code == 1
    assert "masks.safetensors cannot be read" in said.err.splitlines()[-1]


def test_masks_of_other_parts_are_drawn_as_bars_only(cvrbench):
    folder = store(masked_record())
    save_file({"keep.tower_0": np.ones((2, 3, 1), bool)}, folder / "masks.safetensors")
    said = cvrbench("show", "masks", "ncs", "--plot", "figures")
    assert said.code == 0
    assert "none of a trunk" in said.err
    drawn_there = {file.name.rsplit("-", 1)[1] for file in Path("figures").iterdir()}
    assert drawn_there == {"layers.png", "layers.svg", "rounds.png", "rounds.svg"}


REFUSED = {
    ("masks",): (2, "cvrbench show masks RUN"),
    ("sharing",): (2, "cvrbench show sharing RUN"),
    ("mask", "mmoe"): (2, "`show masks RUN`"),
    ("masks", "mmoe", "ncs"): (2, "`show masks RUN`"),
    ("masks", "mmoe"): (1, "is a run of mmoe, and its record tells of no masks; runs of ncs have"),
    ("sharing", "mmoe"): (1, "no gates and no gradients"),
    ("masks", "nothing"): (1, "no run 'nothing'"),
    ("mmoe", "--plot", "figures"): (2, "cvrbench show masks mmoe --plot figures"),
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_cannot_be_shown_is_one_line(cvrbench, words):
    store(replace(masked_record(diagnostics={}), model="mmoe", run_id="log-mmoe-s0-abc"))
    said = cvrbench("show", *words)
    code, message = REFUSED[words]
    assert (said.code, said.out, len(said.err.splitlines())) == (code, "", 1)
    assert message in said.err


def test_a_run_called_masks_is_reached_by_its_folder(cvrbench):
    store(replace(masked_record(), run_id="masks"))
    assert cvrbench("show", "masks").code == 2
    assert "share of connections" in cvrbench("show", "masks", "masks").out
    assert "multiply-adds" in cvrbench("show", "./results/runs/masks").out


def test_gates_and_gradients_are_shown(cvrbench):
    gates = [
        {"level": 0, "gate": task, "experts": ["expert_0", "expert_1"], "load": [0.25, 0.75],
         "entropy": 0.8}
        for task in ("ctr", "cvr")
    ]  # fmt: skip
    found = {"gates": gates, "gradient_cosine": {"embedding": {"ctr-cvr": -0.125}}}
    store(masked_record(model="mmoe", diagnostics=found))
    said = cvrbench("show", "sharing", "log")
    assert "75.0 %" in said.out
    assert "-0.125" in said.out
    (plain,) = cvrbench("show", "sharing", "log", "--json").json()
    assert plain["gates"] == gates
    at_a_glance = cvrbench("show", "log").out
    assert "ctr 0.80, cvr 0.80" in at_a_glance
    assert "cvrbench show sharing log-ncs" in at_a_glance


@pytest.mark.parametrize("found", ["gates", "gradient_cosine"])
def test_half_of_it_is_shown_too(cvrbench, found):
    whole = {
        "gates": [{"level": 0, "gate": "ctr", "experts": ["e"], "load": [1.0], "entropy": 0.0}],
        "gradient_cosine": {"embedding": {"ctr-cvr": 0.5}},
    }
    store(masked_record(diagnostics={found: whole[found]}))
    assert cvrbench("show", "sharing", "log").code == 0
    assert cvrbench("show", "log").code == 0


def test_a_hostile_name_is_shown_as_it_is(cvrbench):
    tasks = ("[red]ctr[/red]", "cvr[/]")
    name = HOSTILE.replace("/", "_")
    store(masked_record(tasks=tasks, run_id=name, environment={"[/x]": "[/bold]"}))
    for words in (("masks", name, "--plot", "figures"), (name,)):
        said = cvrbench("show", *words)
        assert said.code == 0
        assert name in said.out
    assert "only [red]ctr[/red]" in cvrbench("show", "masks", name).out


@pytest.mark.parametrize(("n_tasks", "columns"), [(2, 80), (3, 120)])
def test_no_word_is_cut_on_a_terminal(cvrbench, width, n_tasks, columns):
    record = masked_record(n_tasks)
    store(record)
    width(columns)
    said = cvrbench("show", "masks", record.run_id).out
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= columns
    for words in ("connections", "share of connections", "overlap", "chosen", "dead units, cvr"):
        assert words in said


def test_another_results_folder_is_part_of_the_hint(cvrbench):
    record = masked_record()
    store(record, "my results")
    said = cvrbench("show", record.run_id, "--results-dir", "my results")
    assert f"cvrbench show masks {record.run_id} --results-dir 'my results'" in said.out


def test_report_draws_what_masks_share(cvrbench):
    for seed in range(2):
        store(masked_record(seed=seed))
    other = replace(masked_record(diagnostics={}), dataset="other", run_id="o", model="mmoe")
    store(other)
    said = cvrbench("report", "--figures", "figures", "--no-html")
    assert said.code == 0
    drawn = {file.name for file in Path("figures").iterdir()}
    assert drawn == {
        f"{name}.{ending}"
        for name in (
            "log-finger", "masks-log-finger", "other-finger", "cost-log-finger",
            "seesaw-log-finger", "density-log-finger", "cost-other-finger", "seesaw-other-finger",
        )
        for ending in ("png", "svg", "pdf")
    } | {"captions.txt"}  # fmt: skip


def test_help_tells_of_masks_and_sharing(cvrbench):
    text = cvrbench("show", "--help").out
    for words in ("[masks|sharing] RUN", "cvrbench show masks RUN", "--plot"):
        assert words in text
