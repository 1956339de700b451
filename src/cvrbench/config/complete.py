"""Shell completion of overrides: groups, their options, and keys with their present value.

Reads the yaml files line by line rather than with hydra: completion must answer at once. Zsh and
fish hand over `model=n` and get whole assignments; bash splits it into `model`, `=` and `n`, and
gets what belongs behind the `=`.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cvrbench.config.folder import find_conf, groups
from cvrbench.errors import ConfigError

LEAF = re.compile(r"^(?P<key>[a-z_]+):\s*(?P<value>[^#]*?)\s*(#.*)?$")


def complete(incomplete: str, before: Sequence[str] = ()) -> list[str]:
    """Give every `group=option` and `group.key=value` that begins with `incomplete`.

    A bare `model` is answered with the options of the group, not with every key below it.

    Args:
        incomplete: The word under the cursor.
        before: The words before it.
    """
    try:
        conf = find_conf()
    except ConfigError:
        return []
    words = " ".join(before).replace(" = ", "=").replace(" =", "=").split()
    # Behind a key alone bash is at its `=`, for no override is a key without one.
    if words and (words[-1].endswith("=") or "=" not in words[-1]):
        start = f"{words[-1].rstrip('=')}="
        return [w.removeprefix(start) for w in complete(f"{start}{incomplete}")]
    return [word for word in _words(conf, incomplete) if word.startswith(incomplete)]


def datasets(incomplete: str) -> list[str]:
    """Give the names of datasets that begin with `incomplete`."""
    try:
        return [name for name in groups(find_conf())["dataset"] if name.startswith(incomplete)]
    except ConfigError:
        return []


def _words(conf: Path, incomplete: str) -> Iterator[str]:
    for group, options in groups(conf).items():
        yield from (f"{group}={option}" for option in options)
        if incomplete.startswith(f"{group}."):
            seen: set[str] = set()
            for option in options:
                for key, value in _leaves(conf / group / f"{option}.yaml"):
                    if key not in seen and key != "kind":
                        seen.add(key)
                        yield f"{group}.{key}={value}"
    yield from (f"{k}={v}" for k, v in _leaves(conf / "config.yaml") if k != "defaults")


def _leaves(file: Path) -> Iterator[tuple[str, str]]:
    for line in file.read_text().splitlines():
        if found := LEAF.match(line):
            yield found["key"], found["value"]
