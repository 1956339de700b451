"""The folders `conf/`: where they are, groups and options, completion of command lines from them.

Completion reads the yaml files line by line rather than with Hydra: it must answer at once.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvrbench.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
RUNTIME_GROUPS = {
    "launcher": "how runs are started",
    "sweep": "how hyper-parameters are searched for",
}
"""Groups that are no part of a run's configuration (`config.runtime`), and what they say."""
LEAF = re.compile(r"^(?P<key>[a-z_]+):\s*(?P<value>[^#]*?)\s*(#.*)?$")


@dataclass(frozen=True)
class Conf:
    """Folders of yaml files, whose options stand beside each other."""

    folders: tuple[Path, ...]
    """First the whole one, which has config.yaml; then the user's own, where there is one."""

    @property
    def main(self) -> Path:
        """The yaml file that every composition begins with."""
        return self.folders[0] / "config.yaml"

    @property
    def groups(self) -> dict[str, list[str]]:
        """Groups and their options: `{"model": ["cgc", "mmoe", ...], ...}`."""
        names = sorted(place.name for place in self.folders[0].iterdir() if place.is_dir())
        return {name: [file.stem for file in self.files(name)] for name in names}

    def files(self, group: str) -> list[Path]:
        """Return the yaml file of every option of a group, `model` or `model/search`, by name."""
        found = [file for f in self.folders for file in (f / group).glob("*.yaml")]
        return sorted(found, key=lambda file: file.stem)

    def file(self, group: str, option: str) -> Path:
        """Return the yaml file of an option; of an unknown one, the place where it would be."""
        places = [folder / group / f"{option}.yaml" for folder in self.folders]
        return next((place for place in places if place.is_file()), places[0])

    def check_unique(self) -> None:
        """Refuse an option that two folders have.

        Raises:
            ConfigError: The user's own has the name of a shipped one.
        """
        whole, *others = self.folders
        for file in (
            file for own in others for g in self.groups for file in (own / g).glob("*.yaml")
        ):
            if (whole / file.parent.name / file.name).exists():
                raise ConfigError(
                    f"{file} has the name of an option that cvrbench brings; give it another, as "
                    f"my_{file.name}"
                )

    def __str__(self) -> str:
        """Return the folders in the order in which they are read."""
        return " and ".join(map(str, self.folders))


def find_conf() -> Conf:
    """Return the folders of yaml files.

    The whole one is, in this order: `$CVRBENCH_CONF`, the nearest `conf/` with our `config.yaml` at
    or above the working directory, the copy in the installed package, the one beside the sources.
    The options of a `conf/` in the working directory that has no config.yaml stand beside it.

    Raises:
        ConfigError: `$CVRBENCH_CONF` names a folder without a config.yaml.
    """
    whole, own = _whole_conf(), Path.cwd() / "conf"
    if own == whole or not own.is_dir() or (own / "config.yaml").exists():
        return Conf((whole,))  # with a config.yaml that is not ours, it is another program's
    groups = (folder.name for folder in whole.iterdir() if folder.is_dir())
    return Conf((whole, own) if any((own / group).is_dir() for group in groups) else (whole,))


def _whole_conf() -> Path:
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


def sentence(file: Path) -> str:
    """Return the first sentence of the comment that a yaml file begins with."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines += [line.lstrip("# ")] if not line.startswith("# @") else []
    return re.split(r"; |\. (?=[A-Z])", " ".join(lines))[0].rstrip(".")


def datasets(incomplete: str) -> list[str]:
    """Return the names of datasets that begin with `incomplete`."""
    try:
        return [name for name in find_conf().groups["dataset"] if name.startswith(incomplete)]
    except ConfigError:
        return []


def _words(conf: Conf, incomplete: str) -> Iterator[str]:
    for group, options in conf.groups.items():
        yield from (f"{group}={option}" for option in options)
        if incomplete.startswith(f"{group}."):
            keys = {at.name for f in conf.folders for at in (f / group).glob("*/")}
            nested = {key: conf.files(f"{group}/{key}") for key in sorted(keys)}  # model.search
            yield from (f"{group}.{key}={f.stem}" for key, files in nested.items() for f in files)
            seen = {"kind", *keys}
            for file in (*conf.files(group), *(f for files in nested.values() for f in files)):
                for key, value in _lines(file):
                    if key not in seen:
                        seen.add(key)
                        yield f"{group}.{key}={value}"
    yield from (f"{k}={v}" for k, v in _lines(conf.main) if k != "defaults")


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    for line in file.read_text().splitlines():
        if found := LEAF.match(line):
            yield found["key"], found["value"]
