"""The folder `conf/`: where it is, its groups and options, completion of command lines from it.

Completion reads the yaml files line by line rather than with Hydra: it must answer at once.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cvrbench.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
RUNTIME_GROUPS = {
    "launcher": "how runs are started",
    "sweep": "how hyper-parameters are searched for",
}
"""Groups that are no part of a run's configuration (`config.runtime`), and what they say."""
LEAF = re.compile(r"^(?P<key>[a-z_]+):\s*(?P<value>[^#]*?)\s*(#.*)?$")


def find_conf() -> Path:
    """Return the configuration folder.

    In this order: `$CVRBENCH_CONF`, the nearest `conf/` with our `config.yaml` at or above the
    working directory, the copy in the installed package, the one beside the sources.

    Raises:
        ConfigError: `$CVRBENCH_CONF` names a folder without a config.yaml.
    """
    if (named := os.environ.get("CVRBENCH_CONF")) is not None:
        if not (Path(named) / "config.yaml").is_file():
            raise ConfigError(f"CVRBENCH_CONF is {named}, which holds no config.yaml")
        return Path(named).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        conf = folder / "conf"
        # `conf/config.yaml` alone may be another program's.
        if (conf / "config.yaml").is_file() and (conf / "model" / "ncs.yaml").is_file():
            return conf
    inside = PACKAGE / "_conf"
    return inside if inside.is_dir() else PACKAGE.parents[1] / "conf"


def groups(conf: Path) -> dict[str, list[str]]:
    """Return the config groups and their options: `{"model": ["cgc", "mmoe", ...], ...}`."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(conf.iterdir())
        if folder.is_dir()
    }


def complete(incomplete: str, before: Sequence[str] = ()) -> list[str]:
    """Return every `group=option` and `group.key=value` that begins with `incomplete`.

    A bare `model` is answered with the options of the group, not with every key below it. Zsh and
    fish hand over `model=n` and get whole assignments; bash splits it into `model`, `=` and `n`,
    and gets what belongs behind the `=`.

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
    """Return the names of datasets that begin with `incomplete`."""
    try:
        return [name for name in groups(find_conf())["dataset"] if name.startswith(incomplete)]
    except ConfigError:
        return []


def _words(conf: Path, incomplete: str) -> Iterator[str]:
    for group, options in groups(conf).items():
        yield from (f"{group}={option}" for option in options)
        if incomplete.startswith(f"{group}."):
            nested = sorted((conf / group).glob("*/*.yaml"))  # options of a key, as model.search
            yield from (f"{group}.{file.parent.name}={file.stem}" for file in nested)
            seen = {"kind", *(file.parent.name for file in nested)}
            for file in (*(conf / group / f"{option}.yaml" for option in options), *nested):
                for key, value in _lines(file):
                    if key not in seen:
                        seen.add(key)
                        yield f"{group}.{key}={value}"
    yield from (f"{k}={v}" for k, v in _lines(conf / "config.yaml") if k != "defaults")


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    for line in file.read_text().splitlines():
        if found := LEAF.match(line):
            yield found["key"], found["value"]
