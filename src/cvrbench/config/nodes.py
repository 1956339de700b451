"""Hydra's composition, with what several configurations of a plan have in common done once.

Hydra first merges the yaml files that `group=option` choose and then writes `key=value` into the
result, so that the result before the writing serves all configurations with the same choices.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from cvrbench.config.folder import groups
from cvrbench.errors import ConfigError


class Nodes:
    """What a folder of yaml files composes to; it reads each choice of files once."""

    def __init__(self, conf: Path) -> None:
        self.conf = conf
        self.groups = groups(conf)
        self._bases: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}

    def compose(self, parsed: Sequence[Override]) -> tuple[DictConfig, dict[str, str]]:
        """Give the configuration of these overrides, and the chosen option of every group.

        Raises:
            HydraException: A file, a group or an option is wrong.
            OmegaConfBaseException: A key is.
            ConfigError: A dict is given to a key that holds none.
        """
        # Hydra would merge a dict into the yaml's, whose keys are closed; ours replaces it.
        whole = {o.key_or_group: o.value() for o in parsed if isinstance(o.value(), dict)}
        others = [override for override in parsed if override.key_or_group not in whole]
        choosing = [override for override in others if self.chooses(override)]
        node, choices = self._base(tuple(o.input_line or "" for o in choosing))
        for override in others:
            if override not in choosing:
                OmegaConf.update(node, override.key_or_group, override.value(), merge=True)
        for key, value in whole.items():
            OmegaConf.select(node, key, throw_on_missing=True)
            if not isinstance(OmegaConf.select(node, key), DictConfig):
                raise ConfigError(f"{key} is no dict; got {_plain_dict(value)}")
            OmegaConf.update(node, key, _plain_dict(value), merge=False)
        return node, choices

    def chooses(self, override: Override) -> bool:
        """Whether an override has a say in which files are merged, or in Hydra's own settings."""
        key = override.key_or_group
        return (
            key in self.groups or key.startswith("hydra.") or "/" in key or bool(override.package)
        )

    def _base(self, choosing: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
        if choosing not in self._bases:
            GlobalHydra.instance().clear()
            self._check_data()
            with initialize_config_dir(str(self.conf), version_base="1.3"):
                try:
                    node = compose("config", list(choosing), return_hydra_config=True)
                except Exception as error:
                    # A tag that names a Python object, or no yaml at all; PyYAML is Hydra's own.
                    if not type(error).__module__.startswith("yaml."):
                        raise
                    said = " ".join(str(error).split())
                    raise ConfigError(f"a file in {self.conf} is not plain yaml: {said}") from None
            choices = {
                str(group): str(option)
                for group, option in node.hydra.runtime.choices.items()
                if not str(group).startswith("hydra/") and option not in {None, "null"}
            }
            own = OmegaConf.masked_copy(node, [str(key) for key in node if key != "hydra"])
            OmegaConf.set_struct(own, True)  # as Hydra left it: an unknown key is an error
            self._bases[choosing] = own, choices
        node, choices = self._bases[choosing]
        return copy.deepcopy(node), dict(choices)

    def _check_data(self) -> None:
        """Refuse a main file that is more than data: Hydra imports packages that it searches."""
        file = self.conf / "config.yaml"
        if "hydra" in OmegaConf.load(file):
            raise ConfigError(
                f"{file} has a key `hydra`, by which it could name packages to import; leave it out"
            )


def _plain_dict(value: Any) -> dict[str, Any]:
    """A dict of Hydra's parser, whose keys may be quoted strings, as one of ours."""
    return {str(key): item for key, item in value.items()}
