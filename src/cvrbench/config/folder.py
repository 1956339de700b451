"""Where `conf/` is: the user's own, the checkout's, or the copy inside the wheel."""

import os
from pathlib import Path

from cvrbench.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
ASIDE = {
    "launcher": "how runs are started",
    "sweep": "how hyper-parameters are searched for",
}
"""Groups that are no part of a run's configuration (`config.runtime_groups`), and what they say."""


def find_conf() -> Path:
    """Find the configuration folder.

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
        if is_ours(folder / "conf"):
            return folder / "conf"
    inside = PACKAGE / "_conf"
    return inside if inside.is_dir() else PACKAGE.parents[1] / "conf"


def is_ours(conf: Path) -> bool:
    """Say whether a folder looks like a configuration of cvrbench and not of another program."""
    return (conf / "config.yaml").is_file() and (conf / "model" / "ncs.yaml").is_file()


def groups(conf: Path) -> dict[str, list[str]]:
    """List the config groups and their options: `{"model": ["cgc", "mmoe", ...], ...}`."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(conf.iterdir())
        if folder.is_dir()
    }
