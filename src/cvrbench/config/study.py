"""From the words of `cvrbench sweep` to studies: what all trials share, and what they search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from cvrbench.config.compose import Composed, compose, compose_group, load, parse, product, split
from cvrbench.config.folder import find_conf
from cvrbench.config.ncs import short_forms
from cvrbench.config.runtime import SETTINGS, SweepConfig
from cvrbench.config.space import Dimension, Space, is_dimension, read_space
from cvrbench.config.types import Value
from cvrbench.config.validate import config_to_dict, leaves, validated
from cvrbench.errors import ConfigError, did_you_mean

DEFAULT, OF_OTHERS = "ncs_sparsity", "equal_budget"
"""The sweep where none is named, and where other models than NCS are."""
OWN = {"protocol.score_test": "a sweep's trials never see the test split"}
"""Keys of a run that a sweep sets itself, and why."""
FIXED = {
    "seed": "trials are run with sweep.seeds",
    "dataset": "values on two datasets cannot be compared; -m makes a study of each",
    "logger": "it changes no number",
    "data_dir": "it changes no number",
    "results_dir": "it changes no number",
    "trainer.threads": "it changes no number",
    "trainer.device": "it changes no number",
    "trainer.checkpoint_seconds": "it changes no number",
    "trainer.data": "it changes no number",
    "trainer.check_memory": "it changes no number",
}
"""Keys that cannot be searched, and why."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study: a strategy on a dataset, and what is searched of its configuration."""

    command: tuple[str, ...]
    """Words of `cvrbench sweep` that name this study and no other."""
    sweep: str
    """The option of `sweep=`."""
    settings: SweepConfig
    words: tuple[str, ...]
    """Overrides that all trials have."""
    base: Composed
    """The configuration before tuning."""
    space: Space

    def cell(self, words: Sequence[str], seed: int, *, test: bool) -> Composed:
        """Compose one run of the study.

        Raises:
            ConfigError: What `words` say cannot be together.
        """
        own = [f"seed={seed}", f"protocol.score_test={str(test).lower()}"]
        return compose([*self.words, *words, *own])

    def borders(self) -> list[Composed]:
        """Compose the borders of the space, where a wrong key or value shows.

        Raises:
            ConfigError: A border cannot be composed.
        """
        cells = []
        for condition in (None, *self.space.when):
            dimensions = [*self.space.always, *(condition.dimensions if condition else ())]
            ends = {d.key: d.ends() for d in dimensions}
            if condition is not None:
                ends[condition.key] = [condition.word]
            for number in range(max(map(len, ends.values()))):
                words = [end[min(number, len(end) - 1)] for end in ends.values()]
                try:
                    cells.append(compose([*self.words, *words]))
                except ConfigError as error:
                    where = f"sweep={self.sweep}, at a border of its space"
                    raise ConfigError(f"{where}: {error}") from None
        return cells

    def preset(self) -> dict[str, Value]:
        """Return the values of the searched keys before tuning.

        Raises:
            ConfigError: One of them lies outside the space.
        """
        values = _values(self.base)
        found: dict[str, Value] = {}

        def take(dimension: Dimension) -> Any:
            value = values[dimension.key]
            try:
                found[dimension.key] = dimension.own(value)
            except ValueError:
                raise ConfigError(
                    f"{dimension.key}={dimension.text} leaves out the preset's value {value}, "
                    "which a sweep tries first; take it in, or set preset=false"
                ) from None
            return value

        self.space.walk(take)
        return found


def compose_studies(overrides: Sequence[str], *, multirun: bool) -> list[Study]:
    """Compose and validate one study per combination of the comma lists among the overrides.

    `key=interval(...)`, `range(...)` and `choice(...)` are searched; a key that is given one value
    is not, whatever the sweep's yaml says.

    Raises:
        ConfigError: A word, a setting or the space is wrong.
    """
    words, rest = split(overrides, "sweep", {key: f"sweep.{key}" for key in SETTINGS})
    storage = [word.partition("=")[2] for word in words if word.startswith("sweep.storage=")]
    words = [word for word in words if not word.startswith("sweep.storage=")]
    several = [o for o in parse(rest) if _is_list(o)]
    if several and not multirun:
        key, _, listed = str(several[0].input_line).partition("=")
        raise ConfigError(
            f"{key}={listed} gives several values; add -m for a study of each, or search among "
            f"them: '{key}=choice({listed})'"
        )
    models = {m for w in rest if w.startswith("model=") for m in w.partition("=")[2].split(",")}
    default = DEFAULT if all(model.startswith("ncs") for model in models) else OF_OTHERS
    values = compose_group("sweep", default, words)
    if storage:  # a URL, whose signs mean other things in Hydra's grammar
        values["storage"] = None if storage[-1] == "null" else storage[-1].strip("'\"")
    settings: SweepConfig = validated(SweepConfig, values, "sweep")
    option = next((w.partition("=")[2] for w in words if w.startswith("sweep=")), default)
    command = [*words, *(f"sweep.storage={url}" for url in storage[-1:])]
    return [_study(option, settings, command, cell) for cell in product(rest, _is_list)]


def _is_list(override: Override) -> bool:
    return override.is_sweep_override() and not is_dimension(override)


def as_experiment(words: Sequence[str], title: str) -> str:
    """Write what overrides come to as a yaml for `conf/experiment`.

    Args:
        words: Overrides, an experiment perhaps among them.
        title: A comment at the top.

    Raises:
        ConfigError: As `compose`.
    """
    composed, usual = compose(words), compose()
    chosen = {g: o for g, o in composed.choices.items() if g not in ("experiment", "logger")}
    plain = _values(compose([f"{group}={option}" for group, option in chosen.items()]))
    keys = OmegaConf.create()
    for key, value in leaves(config_to_dict(composed.config)).items():
        aside = key in ("seed", "data_dir", "results_dir") or key.startswith("logger.")
        if value != plain.get(key) and not aside:
            OmegaConf.update(keys, key, value, force_add=True)
    options = [
        f"  - override /{group}: {option}"
        for group, option in chosen.items()
        if option != usual.choices[group]
    ]
    head = ["# @package _global_", f"# {title}", *(["defaults:", *options] if options else [])]
    return "\n".join(head) + "\n" + (OmegaConf.to_yaml(keys) if keys else "")


def _study(
    option: str, settings: SweepConfig, command: Sequence[str], rest: Sequence[str]
) -> Study:
    given = {override.key_or_group: override for override in parse(rest)}
    _refuse(given)
    taken = {*given, *_groups_of_experiment(given)}
    common = [o.input_line or "" for o in parse(settings.overrides) if o.key_or_group not in taken]
    searched = {k: o for k, o in given.items() if is_dimension(o)}
    fixed = [o.input_line or "" for k, o in given.items() if k not in searched]
    words = (*common, *fixed)
    base = compose(words)
    if not settings.objectives:
        settings = replace(settings, objectives=(base.config.dataset.metric,))
    always = {key: text for key, text in settings.space.items() if key not in given}
    always |= {key: str(o.input_line).partition("=")[2] for key, o in searched.items()}
    when = {
        condition: {key: text for key, text in keys.items() if key not in given}
        for condition, keys in settings.when.items()
    }
    space = read_space(always, when, where=f"sweep={option}")
    study = Study(
        command=(*command, *rest),
        sweep=option,
        settings=settings,
        words=words,
        base=base,
        space=_settled(space, base, f"sweep={option}"),
    )
    study.borders()
    if settings.preset:
        study.preset()
    return study


def _refuse(given: Mapping[str, Override]) -> None:
    """Refuse keys that a sweep sets itself, and mistyped settings of the sweep."""
    known = {*find_conf().groups, "seed", "data_dir", "results_dir"}
    for key, override in given.items():
        if key in OWN:
            raise ConfigError(f"{override.input_line}: {OWN[key]}; leave it out")
        if key in FIXED and is_dimension(override):
            raise ConfigError(f"{override.input_line}: {key} cannot be searched: {FIXED[key]}")
        if "." not in key and key not in known and (hint := did_you_mean(key, SETTINGS)):
            raise ConfigError(f"unknown key {key!r}.{hint}")


def _groups_of_experiment(given: Mapping[str, Override]) -> set[str]:
    """Groups that the user's experiment chooses, which then speaks before the sweep's yaml."""
    if "experiment" not in given:
        return set()
    file = find_conf().file("experiment", str(given["experiment"].value()))
    lines = load(file).get("defaults", []) if file.is_file() else []
    keys = [str(key) for line in lines if isinstance(line, Mapping) for key in line]
    return {key.removeprefix("override").strip().lstrip("/") for key in keys}


def _settled(space: Space, base: Composed, where: str) -> Space:
    """Decide the conditions that no trial can change.

    Raises:
        ConfigError: A condition's key is none, or nothing is left to search.
    """
    searched = {dimension.key for dimension in space.dimensions()}
    values = _values(base)
    always, open_ones = list(space.always), []
    for condition in space.when:
        if condition.key in searched:
            open_ones.append(condition)
            continue
        if condition.key not in values and not _is_key_of_an_option(condition.key):
            hint = did_you_mean(condition.key, [*values, *searched])
            raise ConfigError(f"{where}: the condition {condition.word!r} names no key.{hint}")
        if values.get(condition.key) == condition.value:
            always += condition.dimensions
    if not always:
        raise ConfigError(
            f"{where} names nothing to search for model={base.choices['model']}; give a key "
            "several values: 'model.dropout=interval(0,0.5)'"
        )
    settled = Space(always=tuple(always), when=tuple(open_ones))
    settled.check_ranges(where)  # only now: strategies differ in what is a range of theirs
    return settled


def _is_key_of_an_option(key: str) -> bool:
    """Whether any option of the key's group has it, be it another than the chosen one."""
    group, _, rest = key.partition(".")
    return any(rest in leaves(load(file)) for file in find_conf().files(group))


def _values(composed: Composed) -> dict[str, Any]:
    """Every key of a configuration and every group, with its value or option."""
    plain = config_to_dict(composed.config)
    nodes = {
        f"{g}.{k}": v
        for g, keys in plain.items()
        if isinstance(keys, dict)
        for k, v in keys.items()
    }
    return nodes | leaves(plain) | short_forms(plain["model"]) | dict(composed.choices)
