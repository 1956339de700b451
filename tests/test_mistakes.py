"""What people write by mistake: each is one sentence with the corrected line, or simply works."""

import os
from pathlib import Path

import pytest

from cvrbench.balancing import trained_tasks
from cvrbench.config.compose import compose, parse, plan
from cvrbench.config.spelling import literal
from cvrbench.errors import ConfigError

TABLE = ("dataset=table", "dataset.path=log.csv", "dataset.ids=[u]")
CORRECTED = {
    "ncs": "write model=ncs",
    "my.csv": "write `cvrbench compare my.csv`, or dataset=table dataset.path=my.csv",
    "model=NCS": "write model=ncs",
    "model=shared-bottom": "write model=shared_bottom",
    "model=esmm": "write model=shared_bottom objective=entire_space",
    "model=pcgrad": "write balancing=pcgrad",
    "model.sparsity=0.8": "write model.density=0.2",
    "dataset=my.csv": "write dataset=table dataset.path=my.csv",
    "seed=1-5": "write -m seed=1..5",
    "model.hidden=128,64": "or write them as one list: 'model.hidden=[128,64]'",
    "model.hidden=128": "model.hidden must be a list, as [128,64]; got 128",
    "hydra.run.dir=x": "files go to results_dir= and data_dir=",
    "data_dir=${oc.env:NO_SUCH}": "data_dir: Environment variable 'NO_SUCH' not found; set it",
    "trainer.precision=a(b": "\"key=['a(b)']\"",
    "balancing.weights=[1,2]": "'balancing.weights={NAME: VALUE}'",
    "balancing.weights.cvr=3": "'balancing.weights={cvr: 3}'",
}


@pytest.mark.parametrize("word", CORRECTED)
def test_a_mistake_is_answered_with_the_corrected_line(word):
    words = ["balancing=weighted", word] if word.startswith("balancing.") else [word]
    with pytest.raises(ConfigError) as said:
        compose(words)
    assert CORRECTED[word] in str(said.value)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("model=glob(*)", "only a list, choice or range can be run"),
        ("trainer.learning_rate=interval(0.1,1)", "`cvrbench sweep` searches intervals"),
        ("seed=range(0,0)", "is empty"),
    ],
)
def test_what_no_plan_can_be_made_of_is_a_sentence(word, told):
    with pytest.raises(ConfigError, match=told):
        plan([word], multirun=True)


@pytest.mark.parametrize(
    "path",
    ["a=b.csv", "a#1 (2).csv", "用户/log.csv", "~x.csv", "it's.csv", "a:b@c%d.csv", "C:\\x\\", "-"],
)
def test_a_path_is_taken_as_it_is_written(path):
    for key in ("data_dir", "results_dir"):
        assert getattr(compose([f"{key}={path}"]).config, key) == path
    assert compose([*TABLE, f"dataset.path={path}"]).config.dataset.path == path


def test_tasks_of_no_weight_at_all_are_refused():
    config = compose(["balancing=weighted", "balancing.weights={ctr:0,cvr:0}"]).config.balancing
    with pytest.raises(ConfigError, match="0 for every task"):
        trained_tasks(config, ["ctr", "cvr"])


def test_home_commas_quotes_and_environment_keep_their_meaning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert compose(["data_dir=~/d"]).config.data_dir == "/home/me/d"
    assert compose(["data_dir=${oc.env:HOME}/d"]).config.data_dir == "/home/me/d"
    assert compose(["data_dir='a=b'"]).config.data_dir == "a=b"
    two = plan([*TABLE, "dataset.path=a.csv,b.csv"], multirun=True)
    assert [cell.config.dataset.path for cell in two] == ["a.csv", "b.csv"]
    Path("a,b.csv").touch()
    assert compose([*TABLE, "dataset.path=a,b.csv"]).config.dataset.path == "a,b.csv"


def test_columns_are_taken_as_they_are_written():
    names = ("101", "109_14", "007", "yes", "null", "1e5", "用户", "item id", "a(b)", "it's", "k\\")
    words = [
        *TABLE,
        f"dataset.ids=[{', '.join(names)}]".replace("it's", "its"),
        "dataset.group=101",
    ]
    config = compose(words).config.dataset
    assert config.ids == tuple(name.replace("it's", "its") for name in names)
    assert config.group == "101"
    assert compose([*TABLE, "dataset.group=null"]).config.dataset.group is None
    assert compose([*TABLE, "dataset.ids=['a,b', \"c\"]"]).config.dataset.ids == ("a,b", "c")
    (word,) = parse(["dataset.ids=[]"])
    assert word.value() == []
    assert literal("dataset.tasks=[{name:a,label:x}]") == "dataset.tasks=[{name:a,label:x}]"


COMMANDS = {
    "train": "write cvrbench run model=ncs",
    "models": "write cvrbench ls models",
    "plot": "write cvrbench report --figures DIR",
    "list": "write cvrbench ls, or cvrbench data list",
    "inspect log.csv": "write cvrbench data inspect log.csv",
    "run --model ncs": "a setting is a word without dashes: model=ncs",
    "run --seed=3 model=ncs": "a setting is a word without dashes: seed=3",
    "report --results-dir x": "the folder is a word of its own: cvrbench report x",
    "data prepare dataset=synthetic --raw x": "synthetic is drawn, not read; leave it out",
    "data prepare synthetic --raw x": "synthetic is drawn, not read; leave it out",
    "data prepare table dataset.path=a.csv dataset.ids=[u] --raw b.csv": "dataset.path=b.csv",
}  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_other_programs_is_answered_with_ours(cvrbench, line):
    said = cvrbench(*line.split())
    assert said.code == 2
    assert COMMANDS[line] in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_finished_cell_is_read_from_a_folder_that_is_read_only(cvrbench, given, tmp_path):
    run = given("model=shared_bottom", "model.hidden=[8]", "model.tower=[]")
    words = ("run", "experiment=quick_check", "model=shared_bottom", "model.hidden=[8]")
    (tmp_path / "results").chmod(0o500)
    assert run.name in cvrbench(*words, "model.tower=[]").out
    (tmp_path / "results").chmod(0o700)


def test_report_takes_its_folder_as_a_setting_too(cvrbench, given):
    given("model=shared_bottom", "model.hidden=[8]", "model.tower=[]")
    said = cvrbench("report", "results_dir=results", "--no-html")
    assert (said.code, "shared_bottom" in said.out) == (0, True)
