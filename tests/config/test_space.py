"""Search spaces: what Hydra's grammar means, what is refused, and that every shipped one fits."""

import shutil
from dataclasses import fields

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cvrbench.config.compose import compose
from cvrbench.config.runtime import SweepConfig
from cvrbench.config.space import Numbers, read_space
from cvrbench.config.study import as_experiment, compose_studies
from cvrbench.errors import ConfigError
from tests.choices import CONF, MODELS


def one(text: str, key: str = "model.x"):
    (dimension,) = read_space({key: text}, {}, where="here").always
    return dimension


@pytest.mark.parametrize(
    ("text", "low", "high", "log", "step", "integer"),
    [
        ("interval(0.1,0.9)", 0.1, 0.9, False, None, False),
        ("interval(1,9)", 1.0, 9.0, False, None, False),
        ("int(interval(1,9))", 1, 9, False, 1, True),
        ("tag(log,interval(1e-4,1e-2))", 1e-4, 1e-2, True, None, False),
        ("tag(log,int(interval(1,64)))", 1, 64, True, 1, True),
        ("range(1,9)", 1, 8, False, 1, True),
        ("range(2,9,3)", 2, 8, False, 3, True),
        ("range(0.1,0.5,0.1)", 0.1, 0.4, False, 0.1, False),
    ],
)
def test_a_dimension_of_numbers(text, low, high, log, step, integer):
    dimension = one(text)
    assert (dimension.low, dimension.log, dimension.step) == (low, log, step)
    assert dimension.high == pytest.approx(high)
    assert dimension.integer == integer


def test_a_choice_keeps_scalars_and_writes_lists_as_text():
    dimension = one("choice([128,64],[64],3,true,adam)")
    assert dimension.values == ("[128,64]", "[64]", 3, True, "adam")
    assert dimension.own([128, 64]) == "[128,64]"
    assert dimension.plain_of("[64]") == [64]
    assert dimension.word("adam") == "model.x=adam"
    assert one("null,0.1").own(None) is None


@given(low=st.floats(-1e3, 1e3), width=st.floats(1e-3, 1e3), share=st.floats(0, 1))
def test_a_word_gives_back_the_very_number(low, width, share):
    dimension = Numbers(
        key="seed", text="", low=low, high=low + width, log=False, step=None, integer=False
    )
    value = min(max(low + share * width, low), low + width)
    key, _, text = dimension.word(value).partition("=")
    assert key == "seed"
    assert float(text) == value
    assert dimension.own(value) == value


@pytest.mark.parametrize("value", [0.05, 1.01, True, "0.5", None, [0.5], float("nan")])
def test_what_lies_outside_is_none_of_a_dimension(value):
    with pytest.raises(ValueError, match="no value of"):
        one("interval(0.1,1)").own(value)


def test_whole_numbers_and_steps_are_kept():
    assert one("range(2,9,3)").own(5) == 5
    assert one("range(2,9,3)").grid() == [2, 5, 8]
    for wrong in (3, 5.5, 11):
        with pytest.raises(ValueError, match="no value of"):
            one("range(2,9,3)").own(wrong)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("interval(0.9,0.1)", "upside down"),
        ("interval(0.5,0.5)", "upside down or empty"),
        ("range(5,5)", "the range is empty"),
        ("tag(log,interval(0,1))", "above 0"),
        ("tag(lgo,interval(1,2))", "unknown tag 'lgo'"),
        ("0.5", "is no dimension"),
        ("intervall(0,1)", "is no dimension"),
        ("glob(x*)", "is no dimension"),
        ("choice(a,b,a)", "listed twice"),
    ],
)
def test_what_is_no_dimension_is_named(text, said):
    with pytest.raises(ConfigError, match=said) as error:
        one(text)
    assert "model.x=" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_condition_counts_where_it_holds():
    space = read_space(
        {"model.search": "choice(imp,learned)"},
        {"model.search=learned": {"model.gate_rate": "interval(1,9)"}},
        where="here",
    )
    for search, keys in (("imp", ["model.search"]), ("learned", ["model.search", "gate"])):
        seen: list[str] = []

        def take(dimension, search=search, seen=seen):
            seen.append(dimension.key)
            return search

        space.walk(take)
        assert len(seen) == len(keys)


@pytest.mark.parametrize("sweep", sorted(f.stem for f in (CONF / "sweep").glob("*.yaml")))
def test_every_shipped_sweep_composes_and_has_every_setting(sweep):
    (study,) = compose_studies([f"sweep={sweep}"], multirun=False)
    assert study.space.always
    assert {f.name for f in fields(SweepConfig)} == set(vars(study.settings))
    if study.settings.preset:
        assert study.preset()


@pytest.mark.parametrize("model", MODELS)
def test_every_strategy_has_a_space_under_the_equal_budget_that_holds_its_preset(model):
    (study,) = compose_studies(["sweep=equal_budget", f"model={model}"], multirun=False)
    common = {"trainer.learning_rate", "model.dropout", "trainer.weight_decay"}
    keys = {dimension.key for dimension in study.space.always}
    assert common <= keys
    assert set(study.preset()) == keys
    if model not in ("single_task", "shared_embedding", "shared_bottom", "resflow"):
        own = keys - common - {"trainer.embedding_learning_rate", "model.hidden"}
        assert own, "a strategy with keys of its own is tuned in them"


@pytest.mark.parametrize(
    ("words", "sweeps"),
    [
        ([], {"ncs_sparsity"}),
        (["model=ncs"], {"ncs_sparsity"}),
        (["model=mmoe"], {"equal_budget"}),
        (["model=mmoe,ncs"], {"equal_budget"}),
        (["model=ncs", "sweep=equal_budget"], {"equal_budget"}),
    ],
)
def test_the_sweep_that_is_not_named_fits_the_models(words, sweeps):
    assert {study.sweep for study in compose_studies(words, multirun=True)} == sweeps


TASKS = "dataset.tasks=[{name: a, label: a}]"


@pytest.mark.parametrize(
    ("words", "metric"),
    [
        (["dataset=kuairand"], "cvr_auc"),
        (["dataset=kuairand_watch"], "cvr_xauc"),
        (["dataset=census_income"], "never_married_auc"),
        (["dataset=table", "dataset.path=x.csv", "dataset.ids=[u]", TASKS], "a_auc"),
        (["dataset=kuairand", "objectives=[ctr_auc]"], "ctr_auc"),
    ],
)
def test_a_sweep_chooses_by_a_metric_of_its_dataset(words, metric):
    words = [*words, "model=mmoe", "sweep=equal_budget"]
    (study,) = compose_studies(words, multirun=False)
    assert study.settings.objectives == (metric,)


def test_comma_lists_are_studies_and_functions_are_dimensions():
    studies = compose_studies(
        ["model=mmoe,ncs", "model.dropout=interval(0,0.5)", "sweep=equal_budget"],
        multirun=True,
    )
    assert [study.base.choices["model"] for study in studies] == ["mmoe", "ncs"]
    for study in studies:
        texts = {d.key: d.text for d in study.space.always}
        assert texts["model.dropout"] == "interval(0,0.5)"


def test_a_key_with_one_value_is_not_searched():
    (study,) = compose_studies(
        ["sweep=equal_budget", "model=mmoe", "model.dropout=0.3", "trials=7"], multirun=False
    )
    assert "model.dropout" not in {d.key for d in study.space.dimensions()}
    assert study.base.config.model.dropout == 0.3
    assert study.settings.trials == 7


@pytest.fixture
def own_sweep(tmp_path, monkeypatch):
    """Put a sweep of one's own into a copy of the conf folder."""

    def write(**settings) -> None:
        shutil.copytree(CONF, tmp_path / "conf")
        usual = yaml.safe_load((CONF / "sweep" / "equal_budget.yaml").read_text())
        text = yaml.safe_dump(usual | settings)
        (tmp_path / "conf" / "sweep" / "own.yaml").write_text(text)
        monkeypatch.setenv("CVRBENCH_CONF", str(tmp_path / "conf"))

    return write


def test_a_group_can_be_searched_with_what_its_options_have(own_sweep):
    own_sweep(space={}, when={"model=mmoe": {"model.n_experts": "range(2,5)"}}, preset=False)
    words = ["sweep=own", "model=choice(mmoe,shared_bottom)"]
    (study,) = compose_studies(words, multirun=False)
    assert [c.word for c in study.space.when] == ["model=mmoe"]
    cell = study.cell(["model=mmoe", "model.n_experts=3"], 5, test=False)
    assert (cell.config.model.n_experts, cell.config.seed) == (3, 5)
    assert not cell.config.protocol.score_test


def test_objective_and_weights_are_searched_under_the_equal_budget_where_asked():
    words = ["objective=choice(click_space,entire_space)", "balancing=choice(equal,weighted)"]
    (study,) = compose_studies(["sweep=equal_budget", "model=mmoe", *words], multirun=False)
    assert [c.word for c in study.space.when] == ["balancing=weighted"]
    trial = ["objective=entire_space", "balancing=weighted", "balancing.weights={cvr:0.3}"]
    assert study.cell(trial, 5, test=False).config.balancing.weights == {"cvr": 0.3}
    (study,) = compose_studies(["sweep=equal_budget", "model=mmoe"], multirun=False)
    assert not study.space.when


def test_a_condition_on_no_key_is_refused(own_sweep):
    own_sweep(when={"model.serach=imp": {"model.rounds": "range(1,5)"}})
    with pytest.raises(ConfigError, match=r"names no key\. Did you mean 'model.search'"):
        compose_studies(["sweep=own", "model=ncs"], multirun=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=mmoe", "sweep=ncs_sparsity"], "model.density belongs to model=ncs"),
        (["model.density=interval(0.3,0.9)"], "leaves out the preset's value 0.2"),
        (["model.density=interval(0.05,2)"], "less than or equal to 1; got 2"),
        (["model.density=interval(0.9,0.1)"], "upside down"),
        (["trails=5"], "Did you mean 'trials'"),
        (["trials=0"], "sweep.trials must be"),
        (["trials=null"], "has no end"),
        (["sampler=tpee"], "sweep.sampler must be 'tpe'"),
        (["model=mmoe,ple"], "add -m"),
        (["sweep=nix"], "no sweep called 'nix'"),
        (["model.dropuot=interval(0,0.1)"], "Did you mean 'model.dropout'"),
        (["protocol.score_test=true"], "never see the test split"),
        (["model.density=0.2"], "nothing to search"),
        (["seeds=[0]"], "seed 0 is in seeds and in final_seeds"),
        (["seeds=[7,7]"], "listed twice in seeds"),
        (["pruner=wilcoxon"], "five or more in seeds"),
        (["objectives=[cvr_auc,density]", "pruner=median"], "needs one objective"),
        (["objectives=[cvr_auc,density]", "sampler=cmaes"], "needs one objective"),
        (["objectives=[density,cvr_auc]"], "first objective must be a metric"),
    ],
)
def test_a_wrong_word_is_answered_with_one_line(words, said):
    with pytest.raises(ConfigError, match=said) as error:
        compose_studies(words, multirun=False)
    assert "\n" not in str(error.value)


def test_the_best_as_an_experiment_composes_to_the_same_config(tmp_path, monkeypatch):
    words = ["experiment=quick_check", "model=mmoe", "model.hidden=[16,8]", "trainer.epochs=3"]
    text = as_experiment(words, "a title")
    assert text.startswith("# @package _global_\n# a title\n")
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    (conf / "experiment" / "best.yaml").write_text(text)
    monkeypatch.setenv("CVRBENCH_CONF", str(conf))
    assert compose(["experiment=best"]).config == compose(words).config
