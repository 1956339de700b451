"""Configuration: every yaml composes, plans expand, errors name key and remedy."""

import json
import re
import shutil
from dataclasses import FrozenInstanceError, replace
from itertools import product
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from cvrbench.config import compose as composing
from cvrbench.config.compose import Nodes, compose, origins, plan
from cvrbench.config.folder import RUNTIME_GROUPS, Conf, complete, find_conf
from cvrbench.config.spelling import expand, has_search
from cvrbench.config.validate import config_from_dict, config_from_saved, config_to_dict
from cvrbench.errors import ConfigError, did_you_mean

CONF = Path(__file__).parents[2] / "conf"
TABLE = ("dataset.path=log.csv", "dataset.ids=[user]")
OPTIONS = [
    (group, option)
    for group, options in Conf((CONF,)).groups.items()
    for option in options
    if group != "experiment" and group not in RUNTIME_GROUPS
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_survives_json(group, option):
    extra = TABLE if option == "table" else ()
    composed = compose([f"{group}={option}", *extra])
    assert composed.choices[group] == option
    plain = json.loads(json.dumps(config_to_dict(composed.config)))
    assert config_from_dict(plain) == composed.config


@pytest.mark.parametrize("name", Conf((CONF,)).groups["experiment"])
def test_every_experiment_composes(name):
    assert compose([f"experiment={name}"]).choices["experiment"] == name


def test_every_yaml_value_is_commented_or_plain():
    for file in CONF.rglob("*.yaml"):
        assert file.read_text().endswith("\n")
        assert "_target_" not in file.read_text()


def test_a_config_is_frozen():
    config = compose([]).config
    with pytest.raises(FrozenInstanceError):
        config.seed = 3


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("seed=0,1,2", [0, 1, 2]),
        ("seed=range(3)", [0, 1, 2]),
        ("seed=0..2", [0, 1, 2]),
        ("seed=range(1,7,2)", [1, 3, 5]),
        ("seed=choice(4,2)", [4, 2]),
    ],
)
def test_hydras_grammar_of_several_values_is_kept(words, values):
    assert [cell.config.seed for cell in plan([words], multirun=True)] == values


def test_a_plan_is_the_product_of_its_lists_the_first_varying_slowest():
    cells = plan(["model=mmoe,ple", "seed=0,1", "model.dropout=0.0,0.2"], multirun=True)
    got = [(c.choices["model"], c.config.seed, c.config.model.dropout) for c in cells]
    assert got == list(product(["mmoe", "ple"], [0, 1], [0.0, 0.2]))


WORDS = [
    ["seed=3"],
    ["seed=3", "model=mmoe", "seed=4"],
    ["model.hidden=[32,16]", "model=ple", "dataset=kuairand_1k"],
    ["trainer.epochs=2", "trainer=smoke", "logger=wandb", "trainer.threads=null"],
    ["experiment=quick_check", "model=cgc", "dataset.rows=500", "model.dropout=0.25"],
    ["experiment=ncs_paper", "model.search.density=0.5", "trainer.precision=bf16"],
    ["dataset=kuairand", "dataset.valid_from=2022-05-01", "results_dir='a b/${seed}'"],
    ["protocol.label_share=0.5", "data_dir=${results_dir}/d"],
]


def of_hydra(words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = hydra_compose("config", words)
    OmegaConf.set_struct(node, False)
    if has_search(node):  # ours: the name of a search stands for its keys
        expand(node, Conf((CONF,)))
    return config_from_dict(OmegaConf.to_container(node, resolve=True))


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_configuration_is_what_hydra_composes(words):
    assert compose(words).config == of_hydra(words)


def test_the_cells_of_a_plan_are_what_hydra_composes_one_by_one(monkeypatch):
    asked = []
    monkeypatch.setattr(composing, "Nodes", Nodes)  # anew, not those of earlier tests
    monkeypatch.setattr(
        composing.hydra,
        "compose",
        lambda *args, **kw: asked.append(args) or hydra_compose(*args, **kw),
    )
    words = ["model=mmoe,ncs", "seed=range(3)", "balancing=weighted", "model.dropout=0.0,0.3"]
    cells = plan([*words, "balancing.weights={ctr:2}"], multirun=True)
    assert len(asked) == 2  # once for each choice of files
    assert len({repr(cell.config) for cell in cells}) == len(cells) == 12
    for cell in cells:
        lines = [line for line in cell.overrides if not line.startswith("balancing.weights")]
        other = of_hydra(lines)
        assert replace(cell.config, balancing=other.balancing) == other
        assert cell.config.balancing.weights == {"ctr": 2.0}


def test_lists_and_dicts_are_values():
    assert compose(["model.hidden=[32,16]"]).config.model.hidden == (32, 16)
    weighted = compose(["balancing=weighted", "balancing.weights={ctr:1,cvr:2.5}"])
    assert weighted.config.balancing.weights == {"ctr": 1.0, "cvr": 2.5}


WRONG = {
    ("model.hidden=[0]",): r"model.hidden.0 must be greater than or equal to 1; got 0",
    ("model=ple", "model.n_shared_experts=0"): r"levels > 1 needs n_shared_experts",
    ("dataset=kuairand", "dataset.valid_from=soon"): r"must be a day such as 2022-05-03",
    ("dataset=kuairand", "dataset.conversions=[is_click]"): r"dataset.conversions.0",
    ("trainer.compile=maybe",): r"trainer.compile must be true or false; got 'maybe'",
    ("objective=click",): r"no objective called 'click'. Did you mean 'click_space'",
    ("model.kind=mlp",): r"model.kind must be one of",
    ("seed@trainer=1",): r"seed",
    ("model=mmoe", "model.density=0.2"): r"model.density belongs to model=ncs; you have model=mmoe",
    ("trainer.epohcs=1",): r"unknown key 'trainer.epohcs'. Did you mean 'trainer.epochs'",
    ("~model.dropout",): r"every key is declared already",
    ("model.hidden=[1,",): r"override grammar",
    ("model.dropout={a:1}",): r"model.dropout is no dict",
    ("dataset=table", *TABLE, "dataset.split=time"): r"split=time needs split_column",
}


@pytest.mark.parametrize("overrides", WRONG)
def test_a_wrong_value_names_its_key_and_what_was_expected(overrides):
    with pytest.raises(ConfigError, match=WRONG[overrides]):
        compose(overrides)


def test_origins_cover_every_value():
    rows = origins(["experiment=quick_check", "model=mmoe", "seed=5"])
    assert ("seed", "5", "override seed=5") in rows
    keys = {key for key, _, _ in rows}
    assert {"model.n_experts", "trainer.batch_size", "dataset.rows"} <= keys
    files = {origin for _, _, origin in rows if origin.endswith(".yaml")}
    assert all((CONF / file).is_file() for file in files)


def test_the_users_own_conf_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.delenv("CVRBENCH_CONF", raising=False)
    monkeypatch.chdir(tmp_path)
    elsewhere = find_conf()
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text("")
    assert find_conf() == elsewhere  # another program's conf/ is left alone
    (tmp_path / "conf" / "model" / "ncs.yaml").write_text("")
    assert find_conf() == Conf((tmp_path / "conf",))
    monkeypatch.setenv("CVRBENCH_CONF", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="CVRBENCH_CONF"):
        find_conf()


def test_options_beside_the_work_stand_beside_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.delenv("CVRBENCH_CONF", raising=False)
    work = tmp_path / "it's (my) w=rk"
    for group in ("dataset", "model", "experiment", "model/search"):
        (work / "conf" / group).mkdir(parents=True)
    monkeypatch.chdir(work)
    table = (CONF / "dataset" / "table.yaml").read_text()
    for name in ("mine", "my log"):
        text = table.replace("path: ???", "path: log.csv").replace("\nids: []", "\nids: [u]")
        (work / "conf" / "dataset" / f"{name}.yaml").write_text(text)
    shutil.copy(CONF / "model" / "search" / "imp.yaml", work / "conf/model/search/magic.yaml")
    (work / "conf" / "experiment" / "try.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /dataset: mine\nplan: ['seed=0..2']\n"
    )
    assert compose(["dataset=mine"]).config.dataset.path == "log.csv"
    assert compose(["dataset=mine"]).choices["dataset"] == "mine"
    assert compose(["model.search=magic"]).config == compose(["model.search=imp"]).config
    assert [cell.config.seed for cell in plan(["experiment=try"], multirun=False)] == [0, 1, 2]
    assert {"dataset=mine", "dataset=table"} <= set(complete("dataset="))
    with pytest.raises(ConfigError, match=r"my log\.yaml: the name of an option .* rename"):
        compose(["dataset=my log"])
    with pytest.raises(ConfigError, match=re.escape(f" and {work / 'conf'})")):
        compose(["dataset=min"])
    shutil.copy(CONF / "trainer" / "default.yaml", work / "conf/dataset/table.yaml")
    with pytest.raises(ConfigError, match=r"my_table\.yaml"):
        compose()


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("model.sparsty", "model.sparsity"),
        ("sparsity", "model.sparsity"),
        ("trainer.lr", "trainer.learning_rate"),
    ],
)
def test_suggestions_know_last_parts_and_initials(word, near):
    known = ["model.sparsity", "trainer.learning_rate", "trainer.threads"]
    assert repr(near) in did_you_mean(word, known)


def test_nothing_near_suggests_nothing():
    assert did_you_mean("zzz", ["model", "seed"]) == ""


@pytest.mark.slow
def test_an_experiment_may_bring_a_plan_in_which_the_user_replaces_keys():
    cells = plan(["experiment=ncs_ablation", "dataset=kuairand"], multirun=False)
    assert {cell.choices["dataset"] for cell in cells} == {"kuairand"}
    searches = {c.config.model.search.kind for c in cells if c.choices["model"] == "ncs"}
    assert {"imp", "learned", "random", "identical", "shuffled", "unshared"} <= searches
    assert {cell.config.seed for cell in cells} == set(range(5))
    assert len({(c.config.model, c.config.seed) for c in cells}) == len(cells)
    one_seed = plan(["experiment=ncs_ablation", "seed=7"], multirun=False)
    assert {cell.config.seed for cell in one_seed} == {7}
    assert len(one_seed) * 5 == len(cells)


def test_a_key_of_one_strategy_goes_to_the_cells_that_have_it():
    cells = plan(["experiment=ncs_ablation", "model.density=0.3", "seed=0"], multirun=False)
    finders = [c.config.model.finder for c in cells if c.choices["model"] == "ncs"]
    assert {finder.density for finder in finders} == {0.3}
    assert len(finders) < len(cells)
    with pytest.raises(ConfigError, match="densty"):
        plan(["experiment=ncs_ablation", "model.densty=0.3"], multirun=False)


def test_a_plan_cannot_stand_in_a_list_of_experiments():
    with pytest.raises(ConfigError, match="run it apart"):
        plan(["experiment=ncs_ablation,quick_check"], multirun=True)


def test_a_plan_is_no_key_of_a_run():
    assert compose(["experiment=ncs_ablation"]).config.seed == 0


def test_the_papers_preset_is_what_the_papers_code_does():
    config = compose(["experiment=ncs_paper"]).config
    model = config.model
    assert (model.hidden, model.tower) == ((512, 256, 128), ())
    search = model.search
    assert (search.kind, search.density, search.rounds, search.scope) == ("imp", 0.2, 4, "global")
    assert (search.together, search.early_bird, search.choice) == (False, None, "validation_before")
    assert (model.step, model.masked_step) == ("alternate", "legacy")
    assert config.balancing.weights == {"cvr": 1.5}
    assert config.interaction.kind == "all_dots"
    focal, squared = config.objective.losses["ctr"], config.objective.losses["cvr"]
    assert (focal.kind, focal.alpha, focal.gamma, squared.kind) == ("focal", 0.75, 2.0, "mse")
    assert config.trainer.learning_rate == 1e-4


def test_a_config_that_was_saved_before_a_key_was_there_means_what_it_did():
    now = compose(["model=mmoe"]).config
    saved = config_to_dict(now)
    del saved["logger"], saved["protocol"]["label_share"], saved["protocol"]["label_share_task"]
    assert config_from_saved(saved) == now
    with pytest.raises(ConfigError, match=r"protocol\.label_share is missing"):
        config_from_dict({**saved, "logger": {"kind": "none"}})
    scarce = config_to_dict(compose(["protocol.label_share=0.1"]).config)
    assert config_from_saved(scarce).protocol.label_share == 0.1


@pytest.mark.parametrize("damaged", [{"logger": None}, {"protocol": "x"}, {"logger": []}])
def test_a_damaged_saved_config_is_refused_in_a_sentence(damaged):
    saved = config_to_dict(compose(["model=mmoe"]).config)
    with pytest.raises(ConfigError, match=next(iter(damaged))):
        config_from_saved({**saved, **damaged})


def test_a_range_that_goes_down_says_so():
    with pytest.raises(ConfigError, match=r"'seed=7\.\.0' is empty"):
        plan(["seed=7..0"], multirun=True)


def test_a_yaml_that_multiplies_by_aliases_is_refused_at_once(tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    monkeypatch.setenv("CVRBENCH_CONF", str(conf))
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (conf / "experiment" / "bomb.yaml").write_text("\n".join(["a0: &a0 [x]", *levels, ""]))
    with pytest.raises(ConfigError, match=r"bomb\.yaml has more than 20 aliases"):
        compose(["experiment=bomb"])
    (conf / "experiment" / "bomb.yaml").write_text("#" * 2**21)
    with pytest.raises(ConfigError, match=r"bomb\.yaml cannot be read: it has 2,097,152 bytes"):
        compose([])


FLAT = {
    "kind": "ncs", "embedding_dim": 16, "hidden": [128, 64], "tower": [32], "dropout": 0.1,
    "masked": ["trunk"], "search": "gradient_conflict", "base": None, "density": 0.2, "rate": None,
    "rounds": 4, "scope": "global", "warmup_epochs": 0, "search_epochs": 2, "together": True,
    "early_bird": 0.01, "choice": "last", "take": None, "scored": "under", "rewind": True,
    "step": "joint", "masked_step": "strict", "probe_batches": 32,
    "relaxation": "straight_through", "gate_rate": 100, "sharing": None, "regrow_every": 10,
    "regrow_share": 0.3,
}  # fmt: skip
"""A saved `model=ncs` of before each search had keys of its own."""
COMPARED = ("model.search.rounds=4", "model.search.epochs=2")


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({}, ()),
        ({"gate_rate": 7}, ()),  # had no effect
        ({"search": "imp"}, ("model.search=imp",)),
        ({"search": "imp", "choice": "joint"}, ("model.search=imp", "model.search.choice=joint")),
        (
            {"search": "imp", "choice": "validation", "scored": "before"},
            ("model.search=imp", "model.search.choice=validation_before"),
        ),
        ({"search": "imp", "take": 2}, ("model.search=imp", "model.search.choice=2")),
        ({"search": "imp", "take": 4}, ("model.search=imp",)),
        ({"search": "one_shot", "choice": "validation"}, ("model.search=one_shot",)),
        ({"search": "random", "take": 2, "density": 0.04}, ("model.search=random",)),
        (
            {"search": "snip", "choice": "validation"},
            ("model.search=snip", *COMPARED, "model.search.choice=validation"),
        ),
        ({"search": "rigl", "rewind": False}, ("model.search=rigl", "model.search.rewind=false")),
        (
            {"search": "random", "rate": 0.5, "rounds": 1},
            ("model.search=random", "model.density=.5"),
        ),
        ({"search": "shuffled"}, ("model.search=shuffled",)),
        (
            {"search": "unshared", "base": "random", "density": 0.1},
            ("model.search=unshared", "model.search.base=random", "model.density=0.1"),
        ),
        ({"search": "dense", "density": 0.9}, ("model.search=dense",)),
        ({"step": "joint", "masked_step": "legacy"}, ()),
    ],
    ids=str,
)
def test_a_search_saved_with_flat_keys_means_what_it_did(flat, words):
    saved = config_to_dict(compose(["model=ncs"]).config)
    now = compose(["model=ncs", *words]).config
    found = config_from_saved({**saved, "model": {**FLAT, **flat}}).model
    if flat.get("search") == "random":  # a power of the density, to float precision
        density = now.model.search.density
        assert found.search.density == pytest.approx(density)
        found = replace(found, search=replace(found.search, density=density))
    assert found == now.model


def test_two_spellings_of_one_search_are_one_configuration():
    short = compose(["model=ncs", "model.density=0.1", "model.search=imp", "model.take=2"]).config
    long = compose(
        ["model=ncs", "model.search.choice=2", "model.search.density=0.1", "model.search.kind=imp"]
    ).config
    assert short == long
    assert short.model.masked == ("trunk",)
    parts = compose(["model=ncs", "model.search=imp", "model.masked=[towers,trunk]"]).config
    assert parts.model.masked == ("trunk", "towers")
