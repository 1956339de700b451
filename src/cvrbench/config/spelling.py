"""How overrides may be written: short forms of a mask search, and what people write by mistake.

`model.search=imp` stands for the keys of `conf/model/search/imp.yaml`, `model.search.base=imp`
likewise within a control that alters what another search finds. `model.density=0.1` is short for
`model.search.density=0.1`, as is every key of the search that the model itself does not have. These
short forms are read in yaml files too. A slip, or a word of another program, is answered by the
line that is meant.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
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


PATHS = ("dataset.path", "data_dir", "results_dir", "logger.folder")
COLUMNS = (
    "dataset.ids",
    "dataset.numbers",
    "dataset.lists",
    "dataset.group",
    "dataset.split_column",
)
"""Keys whose values are names: they are taken as they are written, not by Hydra's grammar."""
GRAMMAR = re.compile(r"""['"{]|null$|.*\$\{|(choice|range|sort|shuffle|tag|glob|interval)\(""")
"""How a value begins that the grammar is for, whatever its key."""
TABLE = (".csv", ".tsv", ".parquet", ".pq", ".gz", ".zst", ".zip")
OTHER_WORDS = {
    "esmm": "model=shared_bottom objective=entire_space",
    "escm2": "model=shared_bottom objective=escm2_ipw",
    "stl": "model=single_task",
    "single": "model=single_task",
    "hard": "model=shared_bottom",
    "hard_sharing": "model=shared_bottom",
    "sharedbottom": "model=shared_bottom",
    "dcn": "interaction=cross",
    "dcnv2": "interaction=cross",
    "dlrm": "interaction=dot",
    "moe": "model=omoe",
    "ticket": "model=ncs model.search=imp",
    "sparse_sharing": "model=ncs model.search=imp",
    "lt4rec": "model=ncs_paper",
}
"""What a method is called elsewhere, or by its paper, and what it is here."""


def literal(text: str) -> str:
    """Quote the value of a path or of column names for Hydra's grammar; other words as they are.

    >>> literal("dataset.path=~a=b(1).csv"), literal("dataset.ids=[101,109_14]"), literal("seed=1")
    ("dataset.path='~a=b(1).csv'", "dataset.ids=['101','109_14']", 'seed=1')
    """
    key, _, value = text.partition("=")
    if not value or GRAMMAR.match(value):
        return text
    if key in COLUMNS and value.startswith("[") and value.endswith("]"):
        inner = value[1:-1]
        if inner and not re.search(r"""[\[\]'"]""", inner):
            return f"{key}=[{','.join(_quoted(name.strip()) for name in inner.split(','))}]"
    elif key in COLUMNS and "," not in value:
        return f"{key}={_quoted(value)}"
    elif key in PATHS and ("," not in value or Path(value).exists()):
        home = value.startswith(("~/", "~\\")) or value == "~"
        return f"{key}={_quoted(str(Path(value).expanduser()) if home else value)}"
    return text


def _quoted(text: str) -> str:
    escaped = re.sub(r"(\\+)(?=$|')", r"\1\1", text).replace("'", r"\'")
    return f"'{escaped}'"


def for_word(word: str, conf: Conf) -> str:
    """Return what a word without `=` is short for; an empty text if nobody knows."""
    if Path(word).name.lower().endswith(TABLE):
        return f"`cvrbench compare {word}`, or dataset=table dataset.path={word}"
    return _called(word, conf)


def for_option(group: str, value: object, conf: Conf) -> str:
    """Return what an unknown option of a group stands for; an empty text if nobody knows."""
    text = str(value)
    if group == "dataset" and (text.lower().endswith(TABLE) or "/" in text):
        return f"dataset=table dataset.path={text}, or `cvrbench compare {text}`"
    return _called(text, conf, first=group)


def _called(text: str, conf: Conf, first: str = "model") -> str:
    """Return the option of a name that differs in case or hyphens, of one group before others."""
    name = re.sub(r"[-. ]", "_", text).lower()
    groups = conf.groups
    for group in sorted(groups, key=lambda group: group != first):
        if name in groups[group]:
            return f"{group}={name}"
    return OTHER_WORDS.get(name, "")


def for_value(override: Override) -> str:
    """Return what a value is meant as that no key takes; an empty text if nobody knows."""
    key, text = override.key_or_group, str(override.value())
    span = re.fullmatch(r"(\d+)(?:-|\.\.\.|:)(\d+)", text)
    if span and key == "seed":
        return f"-m seed={span[1]}..{span[2]}"
    if key.rpartition(".")[2] == "sparsity":
        try:
            return f"model.density={round(1 - float(text), 6):g}"
        except ValueError:
            return "model.density=0.2, which is 1 - sparsity"
    return ""
