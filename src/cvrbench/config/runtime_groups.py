"""Groups aside of a run's configuration: they say how runs are started, not what they are.

Their words are split off the overrides before a run is composed, so that they can be no part of its
identity, and are composed here: one yaml of the group, the words on top, one frozen dataclass.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cvrbench.config.compose import parse
from cvrbench.config.folder import find_conf, groups
from cvrbench.config.launcher import LauncherConfig, LocalConfig
from cvrbench.config.suggest import did_you_mean
from cvrbench.config.validate import validated
from cvrbench.errors import ConfigError


def take_launcher(overrides: Sequence[str]) -> tuple[LauncherConfig, list[str]]:
    """Split what starts the runs off the overrides; give it, and the overrides that are left.

    `workers=N` is short for `launcher.workers=N` and means `launcher=processes` where no launcher
    is named; `workers=1` alone is one run after another, as without it.

    Raises:
        ConfigError: The launcher, one of its keys or a value is wrong.
    """
    words, rest = split(overrides, "launcher", {"workers": "launcher.workers"})
    if not words and "launcher" not in groups(find_conf()):
        return LocalConfig(kind="local", together="auto"), rest
    only_workers = words != [] and all(word.startswith("launcher.workers=") for word in words)
    values = compose_group("launcher", "processes" if only_workers else "local", words)
    if only_workers and values["workers"] == 1:
        values = compose_group("launcher", "local", [])
    launcher: LauncherConfig = validated(LauncherConfig, values, "launcher")
    return launcher, rest


def split(
    overrides: Sequence[str], group: str, shorthand: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Split the words of a group off the overrides.

    Args:
        overrides: `group=option` and `key=value`, in any order.
        group: Whose words to take: `launcher=...` and `launcher.key=...`.
        shorthand: Short key -> key of the group: `{"workers": "launcher.workers"}`.

    Returns:
        The group's words, short keys written out, and all other words.
    """
    taken, rest = [], []
    for word in overrides:
        key, equals, value = word.partition("=")
        key = shorthand.get(key, key)
        if key.split(".")[0] == group:
            taken.append(f"{key}{equals}{value}")
        else:
            rest.append(word)
    return taken, rest


def compose_group(group: str, default_option: str, words: Sequence[str]) -> dict[str, Any]:
    """Compose a group's values: its chosen or default option's yaml, the words on top.

    Raises:
        ConfigError: The option or a key is unknown, or a word gives several values.
    """
    conf = find_conf()
    if group not in groups(conf):
        raise ConfigError(
            f"{conf} has no folder {group}/; copy it there from the installed package's conf"
        )
    option, parsed = default_option, []
    for override in parse(words):
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line} gives several values; {group} takes one")
        if override.key_or_group == group:
            option = _option(str(override.value()), group, conf)
        else:
            parsed.append(override)
    node = OmegaConf.load(conf / group / f"{option}.yaml")
    known = _keys(node, group)
    for override in parsed:
        key = override.key_or_group
        if key not in known:
            raise _unknown(key, group, option, known, conf)
        OmegaConf.update(node, key.removeprefix(f"{group}."), override.value(), merge=False)
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _option(value: str, group: str, conf: Path) -> str:
    options = groups(conf)[group]
    if value not in options:
        raise ConfigError(
            f"no {group} called {value!r}.{did_you_mean(value, options)} "
            f"Choices: {', '.join(options)}"
        )
    return value


def _unknown(key: str, group: str, option: str, known: list[str], conf: Path) -> ConfigError:
    others = [
        other
        for other in groups(conf)[group]
        if key in _keys(OmegaConf.load(conf / group / f"{other}.yaml"), group)
    ]
    if others:
        owners = " or ".join(f"{group}={other}" for other in others)
        return ConfigError(f"{key} belongs to {owners}; you have {group}={option}")
    return ConfigError(f"unknown key {key!r}.{did_you_mean(key, known)}")


def _keys(node: Any, group: str) -> list[str]:
    return [f"{group}.{key}" for key in node if key != "kind"]
