"""What a user can choose, read from the configuration: tests list no choices by hand."""

from pathlib import Path
from typing import get_args, get_type_hints

from cvrbench.config.ncs import search_kinds
from cvrbench.config.schema import Config

CONF = Path(__file__).parents[1] / "conf"


def literals(config: type, key: str) -> tuple[str, ...]:
    """The words that a key of a config class takes."""
    return get_args(get_type_hints(config)[key])


def kinds(group: str) -> dict[str, type]:
    """The config classes of a group by the kinds that they take."""
    declared = get_type_hints(Config)[group]
    classes = get_args(declared) or (declared,)
    return {kind: config for config in classes for kind in literals(config, "kind")}


PRESETS = {"ncs_paper"}
"""Options of `model=` that are published settings of another, not to be tuned."""

STRATEGIES = tuple(kinds("model"))
MODELS = tuple(sorted({file.stem for file in (CONF / "model").glob("*.yaml")} - PRESETS))
"""Options of `model=`: each strategy, and special cases with names of their own, as `omoe`."""
OBJECTIVES = tuple(kinds("objective"))
BALANCINGS = tuple(kinds("balancing"))
SEARCHES = tuple(search_kinds())
