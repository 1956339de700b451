"""A configuration as a report shows it and asks for it: in the grammar of overrides."""

from collections.abc import Iterator, Mapping
from typing import Any

from cvrbench.config.leaves import leaves


def flat(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Flatten a configuration in the grammar of overrides: `("model.density", "0.2")`."""
    for key, value in leaves(config).items():
        if not isinstance(value, Mapping):  # an empty group, which no override can say
            yield key, _word(value)


def _word(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
