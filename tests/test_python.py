"""`import cvrbench`: the functions of the command line in Python, and the tutorial about them."""

import re
from pathlib import Path

import pytest

import cvrbench
from cvrbench.errors import ConfigError

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorials" / "in-python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    """The names that the tutorial has at its end, its code run in an empty folder."""
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        for block in BLOCKS:
            exec(compile(block, str(TUTORIAL), "exec"), names)
        yield names


def test_the_tutorial_runs(namespace):
    assert len(BLOCKS) >= 5
    assert namespace["record"].seed == 1
    assert namespace["record"].config["trainer"]["epochs"] == 2
    assert len(namespace["earlier"]) == 3  # ncs twice and mmoe once
    assert str(namespace["figure"].axes[0].get_xlabel())


def test_compare_has_every_strategy_and_seed(namespace):
    found = namespace["found"]
    frame = found.to_polars()
    assert frame.height == len(found) == 6
    assert frame["row"].unique(maintain_order=True).to_list() == [
        "single_task",
        "shared_bottom",
        "ncs",
    ]
    for run in found:
        (row,) = frame.filter(run_id=run.run_id).to_dicts()
        assert row["cvr_auc"] == run.metrics["test"]["cvr_auc"]
        assert run.choices["model"] != "ncs" or run.config["model"]["search"]["density"] == 0.3


def test_a_notebook_shows_the_tables_of_the_report(namespace):
    page = namespace["found"]._repr_html_()
    assert page.count("<table") == page.count("</table>") >= 2
    assert "shared_bottom" in page
    assert "<style" not in page  # a notebook has its own
    assert namespace["verdict"].title in page
    assert str(namespace["found"]).startswith(str(namespace["verdict"]))


def test_a_loaded_run_predicts_what_the_command_does(namespace):
    scores = namespace["scores"]
    assert scores.columns[-3:] == ["p_ctr", "p_cvr", "p_ctcvr"]
    assert scores.height == 3
    product = scores["p_ctr"] * scores["p_cvr"]
    assert (scores["p_ctcvr"] - product).abs().max() < 1e-9


def test_words_and_values_mean_the_same():
    by_words = cvrbench.compose("model=ncs", "model.density=0.2", "trainer.epochs=2")
    by_values = cvrbench.compose("model.density=0.2", model="ncs", trainer={"epochs": 2})
    assert by_words.config == by_values.config


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cvrbench.run(model="nsc"), "nsc"),
        (lambda: cvrbench.compare(["mmoe"], seeds=[0, -1]), "seed"),
        (lambda: cvrbench.compare([]), "strateg"),
        (lambda: cvrbench.compare(["mmoe"], seeds=0), "seed"),
        (lambda: cvrbench.results("nowhere").figure("seesaw"), "which dataset"),
    ],
)
def test_a_wrong_word_is_one_sentence(tmp_path, monkeypatch, call, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        call()
    assert list(tmp_path.iterdir()) == []
