"""Groups aside of a run's configuration: their words are split off, composed and checked alone."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cvrbench.config.compose import compose, compose_group, split, take_launcher
from cvrbench.config.folder import RUNTIME_GROUPS, complete
from cvrbench.config.runtime import LocalConfig, ProcessesConfig, RayConfig, SubmititConfig
from cvrbench.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
LOCAL = LocalConfig(kind="local", together="auto")
TYPES = {
    "local": LocalConfig,
    "processes": ProcessesConfig,
    "submitit": SubmititConfig,
    "ray": RayConfig,
}


def test_every_launcher_is_composed_from_its_yaml():
    assert {file.stem for file in (CONF / "launcher").glob("*.yaml")} == set(TYPES)
    for option, cls in TYPES.items():
        launcher, rest = take_launcher([f"launcher={option}", "model=ncs"])
        assert rest == ["model=ncs"]
        assert launcher == cls(**OmegaConf.load(CONF / "launcher" / f"{option}.yaml"))


@pytest.mark.parametrize(
    ("words", "launcher"),
    [
        ([], LOCAL),
        (["workers=1"], LOCAL),
        (["launcher=local"], LOCAL),
        (["workers=3"], ProcessesConfig(kind="processes", workers=3)),
        (["launcher.workers=3"], ProcessesConfig(kind="processes", workers=3)),
        (["launcher=processes", "workers=1"], ProcessesConfig(kind="processes", workers=1)),
    ],
)
def test_workers_alone_means_processes_of_this_machine(words, launcher):
    assert take_launcher(["seed=1", *words, "model=ncs"]) == (launcher, ["seed=1", "model=ncs"])


def test_a_launchers_keys_are_set_in_any_order():
    launcher, rest = take_launcher(
        ["launcher.gpus=0.5", "seed=0,1", "workers=8", "launcher=ray", "launcher.address=auto"]
    )
    assert launcher == RayConfig(kind="ray", workers=8, address="auto", cpus=1, gpus=0.5)
    assert rest == ["seed=0,1"]


def test_split_takes_the_words_of_its_group_alone():
    words = ["a=1", "group=x", "group.key=[1,2]", "grouping=2", "short=3=4", "group"]
    taken, rest = split(words, "group", {"short": "group.long"})
    assert taken == ["group=x", "group.key=[1,2]", "group.long=3=4", "group"]
    assert rest == ["a=1", "grouping=2"]


def test_a_folder_of_yaml_files_without_the_group_is_named(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").touch()
    monkeypatch.setenv("CVRBENCH_CONF", str(tmp_path))
    assert take_launcher(["seed=1"]) == (LOCAL, ["seed=1"])
    with pytest.raises(ConfigError, match=r"no folder launcher/"):
        compose_group("launcher", "local", [])


@pytest.mark.parametrize("group", RUNTIME_GROUPS)
def test_no_run_is_composed_of_them(group):
    with pytest.raises(ConfigError, match=rf"{group}=x says {RUNTIME_GROUPS[group]}"):
        compose([f"{group}=x"])


def test_completion_knows_launchers_and_their_keys():
    assert complete("launcher=r") == ["launcher=ray"]
    assert complete("launcher.part") == ["launcher.partition=null"]
