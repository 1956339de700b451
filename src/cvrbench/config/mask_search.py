"""Short forms of a mask search, on the command line and in yaml files.

`model.search=imp` stands for the keys of `conf/model/search/imp.yaml`, `model.search.base=imp`
likewise within a control that alters what another search finds. `model.density=0.1` is short for
`model.search.density=0.1`, as is every key of the search that the model itself does not have.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cvrbench.config.folder import Conf
from cvrbench.config.ncs import BASE, MOVED, NAMES, SEARCH, NCSConfig, derived_kinds
from cvrbench.errors import ConfigError, did_you_mean

OWN = frozenset(field.name for field in fields(NCSConfig))


def has_search(node: DictConfig) -> bool:
    """Whether the model of a configuration finds masks by a search."""
    return bool(OmegaConf.select(node, "model.kind") == "ncs")


def expand(node: DictConfig, conf: Conf) -> None:
    """Put the keys of the search in the place of its name, and within it those beside it.

    Raises:
        ConfigError: There is no such search.
    """
    model = node.model
    if isinstance(model.search, str):
        model.search = read_search(conf, model.search, SEARCH)
    if isinstance(base := model.search.get("base"), str):
        model.search.base = read_search(conf, base, BASE)
    for key in [str(key) for key in model if key not in OWN]:
        value = model.pop(key)
        OmegaConf.update(node, place(node, f"model.{key}"), value, force_add=True)


def write_all(node: DictConfig, values: Mapping[str, Any], conf: Conf) -> None:
    """Write the values of overrides; the name of a search replaces all of its keys.

    Raises:
        ConfigError: There is no such search.
        OmegaConfBaseException: There is no such key.
    """
    for key, value in sorted(values.items(), key=lambda pair: NAMES.get(pair[0], len(NAMES))):
        where = place(node, key)
        if where in (SEARCH, BASE) and has_key(node, where):
            found = read_search(conf, str(value), key)
            OmegaConf.update(node, where, found, merge=False)
        else:
            OmegaConf.update(node, where, value, merge=True)


def place(node: DictConfig, key: str) -> str:
    """Return the key that a short form stands for; any other key as it is."""
    if not has_search(node):
        return key
    if key in NAMES:
        return (SEARCH, BASE)[NAMES[key]]
    group, _, rest = key.partition(".")
    if group != "model" or not rest or rest.split(".")[0] in OWN:
        return key
    name = MOVED.get(rest, rest)
    return next((k for k in (f"{SEARCH}.{name}", f"{BASE}.{name}") if has_key(node, k)), key)


def has_key(node: DictConfig, key: str) -> bool:
    """Whether a configuration has a key, whatever its value."""
    parent, _, last = key.rpartition(".")
    found = OmegaConf.select(node, parent)
    return isinstance(found, DictConfig) and last in found


def read_search(conf: Conf, name: str, key: str) -> Any:
    """Return the keys that the name of a search stands for.

    Raises:
        ConfigError: There is no such search.
    """
    names = [file.stem for file in conf.files("model/search")]
    if name not in names:
        raise ConfigError(
            f"{key}={name}: there is no such mask search.{did_you_mean(name, names)} "
            f"Choices: {', '.join(names)}"
        )
    keys: Any = OmegaConf.load(conf.file("model/search", name))
    if isinstance(base := keys.get("base"), str):
        keys.base = read_search(conf, base, BASE)
    return keys


def chosen(model: Mapping[str, Any], words: Mapping[str, str]) -> set[str]:
    """Return the search, and the one whose masks it takes, of a model's yaml and some overrides."""
    given = {NAMES[key]: value for key, value in words.items() if key in NAMES}
    search = model.get("search", {})
    search = {"kind": search} if isinstance(search, str) else search
    kind = given.get(0, str(search.get("kind")))
    return {kind, given.get(1, "imp")} if kind in derived_kinds() else {kind}
