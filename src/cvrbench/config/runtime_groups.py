"""Runtime groups (`launcher=`, `sweep=`): how runs are started or searched, not what they are.

Their words are split off the overrides before a run is composed, so that they can be no part of its
identity, and are composed here: one yaml of the group, the words on top, one frozen dataclass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from cvrbench.config.compose import check_option, load, parse
from cvrbench.config.folder import find_conf, groups
from cvrbench.config.launcher import LauncherConfig, LocalConfig
from cvrbench.config.validate import validated
from cvrbench.errors import ConfigError, did_you_mean


def take_launcher(overrides: Sequence[str]) -> tuple[LauncherConfig, list[str]]:
    """Return the launcher that the overrides ask for, and the overrides that are left.

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
        group: Group whose words to take: `launcher=...` and `launcher.key=...`.
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
    """Compose a group's values: the yaml of its chosen or default option, the words on top.

    Raises:
        ConfigError: The option or a key is unknown, or a word gives several values.
    """
    conf = find_conf()
    options = groups(conf).get(group)
    if options is None:
        raise ConfigError(
            f"{conf} has no folder {group}/; copy it there from the installed package's conf"
        )
    option, parsed = default_option, []
    for override in parse(words):
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line} gives several values; {group} takes one")
        if override.key_or_group == group:
            option = str(override.value())
            check_option(group, option, options)
        else:
            parsed.append(override)
    keys = {o: [k for k in load(conf / group / f"{o}.yaml") if k != "kind"] for o in options}
    known = [f"{group}.{key}" for key in keys[option]]
    node = OmegaConf.load(conf / group / f"{option}.yaml")
    for override in parsed:
        key = override.key_or_group
        inner = key.removeprefix(f"{group}.")
        if key in known:
            OmegaConf.update(node, inner, override.value(), merge=False)
            continue
        if owners := [
            o for o in options if inner in {*load(conf / group / f"{o}.yaml")} - {"kind"}
        ]:
            named = " or ".join(f"{group}={owner}" for owner in owners)
            raise ConfigError(f"{key} belongs to {named}; you have {group}={option}")
        raise ConfigError(f"unknown key {key!r}.{did_you_mean(key, known)}")
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
