"""From overrides on the command line to a validated, frozen `Config`.

Hydra composes the yaml files and applies the overrides; `config.validate` checks the result. Hydra
first merges the files that `group=option` choose and then writes `key=value` into the result, so
the result before the writing is kept for all configurations of a plan with the same choices.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from cvrbench.config import schema, spelling
from cvrbench.config.folder import RUNTIME_GROUPS, Conf, find_conf
from cvrbench.config.ncs import NAMES, readers
from cvrbench.config.runtime import LauncherConfig, LocalConfig
from cvrbench.config.types import OPTION
from cvrbench.config.validate import config_from_dict, config_to_dict, leaves, validated
from cvrbench.errors import ConfigError, did_you_mean
from cvrbench.system.files import read_bytes

SPAN = re.compile(r"(?P<key>[^=]+)=(?P<first>-?\d{1,9})\.\.(?P<last>-?\d{1,9})")
"""A range of whole numbers without brackets."""
YAML_BYTES, YAML_ALIASES = 2**20, 20
"""Most bytes, and most aliases, of a yaml file: aliases of aliases multiply without end."""
PLAN = "plan"
"""Key of an experiment's yaml with the lines that make it a plan of many runs."""


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A config and the words it came from."""

    config: schema.Config
    choices: dict[str, str]
    """Group -> chosen option: `{"model": "ncs", ...}`."""
    overrides: tuple[str, ...]


class Nodes:
    """Compositions of the yaml files of `conf/`; each choice of files is merged once."""

    def __init__(self, conf: Conf) -> None:
        self.conf = conf
        self.groups = conf.groups
        conf.check_unique()
        check_yaml(conf.main)
        for place in (folder / group for folder in conf.folders for group in self.groups):
            for file in place.rglob("*.yaml"):
                check_yaml(file)
        self._bases: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}

    def compose(self, parsed: Sequence[Override]) -> tuple[DictConfig, dict[str, str]]:
        """Return the configuration of some overrides, and the chosen option of every group.

        Raises:
            HydraException: A file, a group or an option is wrong.
            OmegaConfBaseException: A key is.
            ConfigError: A dict is given to a key that holds none.
        """
        # Hydra would merge a dict into the yaml's, whose keys are closed; ours replaces it.
        whole = {o.key_or_group: value for o in parsed if isinstance(value := o.value(), dict)}
        others = [override for override in parsed if override.key_or_group not in whole]
        choosing = [override for override in others if self._chooses_files(override)]
        node, choices = self._merged(tuple(o.input_line or "" for o in choosing))
        values = {o.key_or_group: o.value() for o in others if o not in choosing}
        spelling.write_all(node, values, self.conf)
        for key, value in whole.items():
            plain = {str(name): item for name, item in value.items()}  # names may be quoted
            there = OmegaConf.select(node, key)
            if there is not None and not isinstance(there, DictConfig):
                raise ConfigError(f"{key} is no dict; got {plain}")
            OmegaConf.update(node, key, plain, merge=False)
        return node, choices

    def _chooses_files(self, override: Override) -> bool:
        """Whether an override decides which files are merged, or one of Hydra's own settings."""
        key = override.key_or_group
        return (
            key in self.groups or key.startswith("hydra.") or "/" in key or bool(override.package)
        )

    def _merged(self, choosing: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
        if choosing not in self._bases:
            node = self._merge(choosing)
            choices = {
                str(group): str(option)
                for group, option in node.hydra.runtime.choices.items()
                if not str(group).startswith("hydra/") and option not in {None, "null"}
            }
            own = OmegaConf.masked_copy(node, [str(key) for key in node if key != "hydra"])
            if spelling.has_search(own):
                spelling.expand(own, self.conf)
            OmegaConf.set_struct(own, True)  # as Hydra left it: an unknown key is an error
            self._bases[choosing] = own, choices
        node, choices = self._bases[choosing]
        return copy.deepcopy(node), dict(choices)

    def _merge(self, choosing: Sequence[str]) -> DictConfig:
        main, (whole, *others) = self.conf.main, self.conf.folders
        GlobalHydra.instance().clear()
        try:
            if "hydra" in OmegaConf.load(main):  # Hydra imports packages that it searches
                raise ConfigError(
                    f"{main} has a key `hydra`, by which it could name packages to import; leave "
                    "it out"
                )
            escaped = (str(folder).replace("'", r"\'") for folder in others)
            places = ",".join(f"'file://{folder}'" for folder in escaped)
            search = f"hydra.searchpath=[{places}]"
            with hydra.initialize_config_dir(str(whole), version_base="1.3"):
                return hydra.compose("config", [search, *choosing], return_hydra_config=True)
        except Exception as error:
            # A tag that names a Python object, or no yaml at all; PyYAML is Hydra's own.
            if not type(error).__module__.startswith("yaml."):
                raise
            said = " ".join(str(error).split())
            raise ConfigError(f"a file in {self.conf} is not plain yaml: {said}") from None


def compose(overrides: Sequence[str] = ()) -> Composed:
    """Compose and validate one configuration.

    Args:
        overrides: Hydra's grammar: `group=option`, `key=value`.

    Raises:
        ConfigError: A group, option, key or value is wrong, or a list stands where one value
            must.
    """
    return _compose(overrides, Nodes(find_conf()))


def _compose(overrides: Sequence[str], nodes: Nodes) -> Composed:
    parsed = parse(overrides)
    for override in parsed:
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line} gives several values; add -m to run all of them"
                + _as_list(override, parsed, nodes)
            )
    for override in parsed:
        group, value = override.key_or_group, override.value()
        if (runtime := group.split(".")[0]) in RUNTIME_GROUPS:
            raise ConfigError(
                f"{override.input_line} says {RUNTIME_GROUPS[runtime]}, not what a run is; leave "
                "it out here"
            )
        if group in nodes.groups and value is not None:
            check_option(group, value, nodes.conf)
    try:
        node, choices = nodes.compose(parsed)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, parsed, nodes) from None
    values = _plain(node)
    try:
        config = config_from_dict(values)
    except ConfigError as error:
        meant = [word for override in parsed if (word := spelling.for_value(override))]
        if not meant:
            raise
        raise ConfigError(f"{error}; write {meant[0]}") from None
    return Composed(config=config, choices=choices, overrides=tuple(overrides))


def _as_list(override: Override, parsed: Sequence[Override], nodes: Nodes) -> str:
    """Return how to write several values of a key that holds a list; else an empty text."""
    options = [o for o in parsed if o.value() in nodes.groups.get(o.key_or_group, [])]
    node, _ = nodes.compose(options)
    if not isinstance(OmegaConf.select(node, override.key_or_group), ListConfig):
        return ""
    key, _, values = (override.input_line or "").partition("=")
    return f", or write them as one list: '{key}=[{values}]'"


def with_own_word(saved: Composed, words: Sequence[str], command: str) -> Composed:
    """Replace what a run that may be somebody else's must not decide: data folder and tracker.

    Args:
        saved: The run, whose `data_dir` could lie anywhere and whose `logger` may be a server.
        words: What the user says of them now: `data_dir=DIR`, `logger=...`.
        command: How the user called for the run, for messages.

    Raises:
        ConfigError: A word speaks of something else, or the data folder is not the user's own.
    """
    own = compose(words)
    for override in parse(words):
        if override.key_or_group.split(".")[0] not in ("data_dir", "logger"):
            raise ConfigError(
                f"{override.input_line}: what a run computes is fixed; only data_dir= and logger= "
                "can be given here"
            )
    named = any(word.startswith("data_dir=") for word in words)
    theirs, ours = (Path(c.config.data_dir).resolve() for c in (saved, own))
    if not named and theirs != ours:
        raise ConfigError(
            f"the run was begun with data_dir={saved.config.data_dir}, and yours is "
            f"{own.config.data_dir}; a run does not choose the folder that data are written to: "
            f"`{command} data_dir={saved.config.data_dir}` takes it"
        )
    config = replace(saved.config, data_dir=own.config.data_dir, logger=own.config.logger)
    choices = saved.choices | {"logger": own.choices["logger"]}
    return replace(saved, config=config, choices=choices)


def plan(overrides: Sequence[str], *, multirun: bool) -> list[Composed]:
    """Expand comma lists, ranges and `choice` into their product; compose and validate all.

    The first override varies slowest. An experiment may bring a plan of its own, a list of lines
    each of which is such a product; what the user gives replaces the same key in every line.

    Raises:
        ConfigError: As `compose`; nothing has run by then.
    """
    conf = find_conf()
    nodes = Nodes(conf)
    if lines := _planned_lines(overrides, conf):
        words = (w for line in lines for w in _planned_words(line, overrides, conf))
        cells = [_compose(w, nodes) for w in words]
        # What the user fixes can make cells of two lines the same.
        return list({repr(cell.config): cell for cell in cells}.values())
    return [_compose(words, nodes) for words in (product(overrides) if multirun else [overrides])]


def _planned_lines(overrides: Sequence[str], conf: Conf) -> list[str]:
    """Return the lines of the chosen experiment's `plan`; an empty list without one."""
    for override in parse(overrides):
        if override.key_or_group != "experiment":
            continue
        several = override.is_sweep_override()
        names = list(override.sweep_string_iterator()) if several else [override.value()]
        files = [conf.file("experiment", str(name)) for name in names]
        plans = [load(file).get(PLAN, []) for file in files if file.is_file()]
        if several and any(plans):
            raise ConfigError(
                f"{override.input_line}: an experiment with a plan of its own cannot stand in a "
                "list; run it apart"
            )
        return [str(line) for plan in plans for line in plan]
    return []


def _planned_words(line: str, overrides: Sequence[str], conf: Conf) -> list[list[str]]:
    """Expand one line of a plan with the user's overrides, which replace its keys.

    A key of a group's option (`model.density`) is left out of cells whose option lacks it.
    """
    given = {override.key_or_group for override in parse(overrides)}
    kept = [o.input_line or "" for o in parse(line.split()) if o.key_or_group not in given]
    keys_of = cache(partial(_keys_of_options, conf))
    cells = []
    for words in product([*kept, *overrides]):
        options = {o.key_or_group: str(o.value()) for o in parse(words)}
        cells.append([word for word in words if _fits(word, options, keys_of)])
    return cells


def _fits(
    word: str, options: Mapping[str, str], keys_of: Callable[[str], dict[str, dict[str, Any]]]
) -> bool:
    """Whether the chosen option of a key's group has the key; True where no option is chosen."""
    group, _, key = word.partition("=")[0].partition(".")
    keys = keys_of(group)
    if not key or (option := options.get(group, "")) not in keys:
        return True
    first = key.split(".")[0]
    if group == "model" and (searches := readers(key)):
        return not searches.isdisjoint(spelling.chosen(keys[option], options))
    return first in keys[option] or not any(first in others for others in keys.values())


def _keys_of_options(conf: Conf, group: str) -> dict[str, dict[str, Any]]:
    return {file.stem: load(file) for file in conf.files(group)}


def product(
    overrides: Sequence[str], expands: Callable[[Override], bool] = Override.is_sweep_override
) -> list[list[str]]:
    """Return every combination of the values of those overrides that `expands` accepts."""
    cells: list[list[str]] = [[]]
    for override in parse(overrides):
        values = [override.input_line or ""]
        if expands(override):
            name = override.get_key_element()
            try:
                values = [f"{name}={value}" for value in override.sweep_string_iterator()]
            except HydraException:
                raise ConfigError(
                    f"{override.input_line}: only a list, choice or range can be run; `cvrbench "
                    "sweep` searches intervals"
                ) from None
            if not values:
                raise ConfigError(f"{override.input_line} is empty: no run has a value of it")
        cells = [[*cell, value] for cell in cells for value in values]
    return cells


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides, refusing those that would add or delete keys.

    Raises:
        ConfigError: One is no `key=value`, or begins with `+` or `~`.
    """
    for text in overrides:
        if text.startswith(("+", "~")):
            raise ConfigError(
                f"{text!r} would add or delete a key, but every key is declared already; write "
                f"{text.lstrip('+~')!r}"
            )
        if "=" not in text:
            meant = spelling.for_word(text, find_conf()) or "key=value or group=option"
            raise ConfigError(f"{text!r} is no override; write {meant}")
        if text.startswith("hydra"):
            raise ConfigError(
                f"{text}: Hydra composes the configuration here and runs nothing; files go to "
                "results_dir= and data_dir="
            )
    try:
        return [_parsed(text) for text in overrides]
    except OverrideParseException as error:
        raise ConfigError(
            f"{error.override!r} is not in Hydra's override grammar: quote lists and dicts for the "
            "shell, 'model.hidden=[128,64]', and within it texts with special characters, "
            """"key=['a(b)']\""""
        ) from None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Override:
    """Parse one override; the cells of a plan have most of theirs in common.

    `seed=0..7` is 0 to 7, as `seed=range(0,8)`, whose brackets a shell takes for its own.
    """
    plain = spelling.literal(text)
    if found := SPAN.fullmatch(text):
        first, last = int(found["first"]), int(found["last"])
        if last < first:
            raise ConfigError(f"{text!r} is empty: a range goes up, and both its ends belong to it")
        plain = f"{found['key']}=range({first},{last + 1})"
    parsed: Override = OverridesParser.create().parse_overrides([plain])[0]
    return replace(parsed, input_line=text)


def origins(overrides: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return `(key, value, file or override)` of every value, in key order.

    Raises:
        ConfigError: As `compose`.
    """
    composed = compose(overrides)
    plain = config_to_dict(composed.config)
    node = OmegaConf.create(plain)
    given = {
        spelling.place(node, override.key_or_group): f"override {override.input_line}"
        for override in parse(overrides)
        if override.key_or_group not in composed.choices
    }
    experiment = composed.choices.get("experiment")
    in_experiment: set[str] = set()
    if experiment is not None:
        keys = leaves(load(find_conf().file("experiment", experiment)))
        in_experiment = {spelling.place(node, key) for key in keys}
    rows = []
    for key, value in leaves(plain).items():
        group = key.split(".")[0]
        near = [k for k in given if key == k or key.startswith(f"{k}.")]
        if near:
            where = given[max(near, key=len)]
        elif key in in_experiment:
            where = f"experiment/{experiment}.yaml"
        elif group in composed.choices:
            where = f"{group}/{composed.choices[group]}.yaml"
        else:
            where = "config.yaml"
        rows.append((key, str(value), where))
    return rows


def take_launcher(overrides: Sequence[str]) -> tuple[LauncherConfig, list[str]]:
    """Return the launcher that the overrides ask for, and the overrides that are left.

    `workers=N` is short for `launcher.workers=N` and means `launcher=processes` where no launcher
    is named; `workers=1` alone is one run after another, as without it.

    Raises:
        ConfigError: The launcher, one of its keys or a value is wrong.
    """
    words, rest = split(overrides, "launcher", {"workers": "launcher.workers"})
    if not words and "launcher" not in find_conf().groups:
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
    options = conf.groups.get(group)
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
            check_option(group, option, conf)
        else:
            parsed.append(override)
    keys = {o: {*load(conf.file(group, o))} - {"kind"} for o in options}
    known = [f"{group}.{key}" for key in keys[option]]
    node = OmegaConf.create(load(conf.file(group, option)))
    for override in parsed:
        key = override.key_or_group
        inner = key.removeprefix(f"{group}.")
        if key in known:
            OmegaConf.update(node, inner, override.value(), merge=False)
            continue
        if owners := [o for o in options if inner in keys[o]]:
            named = " or ".join(f"{group}={owner}" for owner in owners)
            raise ConfigError(f"{key} belongs to {named}; you have {group}={option}")
        raise ConfigError(f"unknown key {key!r}.{did_you_mean(key, known)}")
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def check_option(group: str, value: object, conf: Conf) -> None:
    """Refuse a value of a group that is not one of its options.

    Raises:
        ConfigError: Says which options there are, and which is near; or the option's name cannot be
            that of a run's folder.
    """
    options = conf.groups[group]
    if value not in options and (meant := spelling.for_option(group, value, conf)):
        raise ConfigError(f"no {group} called {value!r}; write {meant}")
    if value not in options:
        raise ConfigError(
            f"no {group} called {value!r}.{did_you_mean(str(value), options)} "
            f"Choices: {', '.join(options)} (read from {conf})"
        )
    if not re.fullmatch(OPTION, str(value)):
        raise ConfigError(
            f"{conf.file(group, str(value))}: the name of an option becomes that of folders: "
            "letters, digits, _, - and dots, at most 100; rename the file"
        )


def check_yaml(file: Path) -> None:
    """Refuse a yaml file whose reading would take minutes, or all memory.

    Raises:
        ConfigError: It is no regular file, too large, or has more than a few aliases.
    """
    try:
        text = read_bytes(file, most=YAML_BYTES)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    if len(re.findall(rb"(?<![\w'\"])\*\w", text)) > YAML_ALIASES:
        raise ConfigError(
            f"{file} has more than {YAML_ALIASES} aliases (*name), which may multiply without end; "
            "write the values out"
        )


def load(file: Path) -> Any:
    """Read a yaml file as plain values."""
    check_yaml(file)
    return OmegaConf.to_container(OmegaConf.load(file))


def _plain(node: DictConfig) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        if isinstance(error, InterpolationResolutionError):
            said = re.sub(
                r'^KeyError raised while resolving interpolation: "(.*)"$',
                r"\1",
                str(error).splitlines()[0],
            )
            raise ConfigError(f"{key}: {said}; set it, or write {key}=...") from None
        raise ConfigError(f"{key} has no value; set it: {key}=...") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != PLAN}


def _explain(error: Exception, parsed: Sequence[Override], nodes: Nodes) -> ConfigError:
    """Turn Hydra's message about an unknown key into one with the nearest right key."""
    options, conf = nodes.groups, nodes.conf
    plain = ConfigError(str(error).splitlines()[0])
    try:
        base, _ = nodes.compose([o for o in parsed if o.key_or_group in options])
        if spelling.has_search(base):
            base, _ = nodes.compose([o for o in parsed if o.key_or_group in {*options, *NAMES}])
    except (HydraException, OmegaConfBaseException):
        return plain
    known = leaves(OmegaConf.to_container(base))
    inner = {key.rsplit(".", n)[0] for key in known for n in range(1, key.count(".") + 1)}
    for override in parsed:
        key = override.key_or_group
        is_named = key in options or key in NAMES
        if isinstance(OmegaConf.select(base, key), DictConfig) and not is_named:
            return ConfigError(f"{override.input_line}: {key} is a dict: '{key}={{NAME: VALUE}}'")
        if key in options or key in inner or spelling.place(base, key) in {*known, *inner}:
            continue
        group, _, rest = key.partition(".")
        if meant := spelling.for_value(override):
            return ConfigError(f"unknown key {key!r}: write {meant}")
        above, _, last = key.rpartition(".")
        if above and above not in options and isinstance(OmegaConf.select(base, above), DictConfig):
            return ConfigError(
                f"{key}: {above} is one dict: '{above}={{{last}: {override.value()}}}'"
            )
        if group == "model" and (searches := readers(key)):
            if not spelling.has_search(base):
                return ConfigError(f"{key} belongs to model=ncs; you have model={base.model.kind}")
            return ConfigError(
                f"{key}: model.search={base.model.search.kind} does not read it; these searches "
                f"do: {', '.join(sorted(searches))}"
            )
        having = (o for o in options.get(group, []) if rest in leaves(load(conf.file(group, o))))
        if owners := ", ".join(having):
            chosen = base.get(group, {}).get("kind", "another")
            return ConfigError(f"{key} belongs to {group}={owners}; you have {group}={chosen}")
        return ConfigError(f"unknown key {key!r}.{did_you_mean(key, [*known, *options])}")
    return plain
