"""What people write by mistake, or as other programs have it, and the line that they mean."""

import re
from pathlib import Path

from hydra.core.override_parser.types import Override

from cvrbench.config.folder import Conf

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
