"""Which runs a report is about: `dataset=kuairand model=ncs,mmoe model.density=0.2`."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cvrbench.config.suggest import did_you_mean
from cvrbench.errors import ConfigError
from cvrbench.record import RunRecord
from cvrbench.report.settings import flat
from cvrbench.store import Unfinished
from cvrbench.studies import StudySummary

OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
"""Commas between values, not those within a list such as [128,64]."""
USUAL = " Usual ones are dataset, model, seed, and keys as `cvrbench config` prints them."


@dataclass(frozen=True)
class Filters:
    """Keys, each with the values that a run may have there."""

    wanted: Mapping[str, tuple[str, ...]]

    def records(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """Keep the runs that have all that is wanted.

        Raises:
            ConfigError: A key or a value is met in no run at all, so that it is a slip.
        """
        told = [_told_by_record(record) for record in records]
        if told:
            self._refuse_unmet(told)
        return [r for r, of in zip(records, told, strict=True) if self._fit(of.get)]

    def begun(self, begun: Iterable[Unfinished]) -> list[Unfinished]:
        """Keep the unfinished runs that have all that is wanted; what they lack is no reason."""
        return [one for one in begun if self._fit(_told_by_config(one.choices, one.config).get)]

    def sweeps(self, summaries: Iterable[StudySummary]) -> list[StudySummary]:
        """Keep the sweeps on the wanted data with the wanted models; other keys are runs'."""
        return [
            one
            for one in summaries
            if one.dataset in self.wanted.get("dataset", (one.dataset,))
            and one.fingerprint in self.wanted.get("fingerprint", (one.fingerprint,))
            and one.model in self.wanted.get("model", (one.model,))
        ]

    def _fit(self, told: Callable[[str], str | None]) -> bool:
        return all(told(key) in values for key, values in self.wanted.items())

    def _refuse_unmet(self, told: Sequence[Mapping[str, str]]) -> None:
        for key, values in self.wanted.items():
            met = {one[key] for one in told if key in one}
            if not met:
                near = did_you_mean(key, sorted({name for one in told for name in one}))
                raise ConfigError(f"{key}: no run has such a key.{near or USUAL}")
            for value in values:
                if value not in met:
                    raise ConfigError(f"{key}={value}: no run has it; there are {_some(met)}")


def read_filters(words: Iterable[str]) -> Filters:
    """Read `KEY=VALUE[,VALUE...]`.

    Raises:
        ConfigError: A word is not of this form, or a key comes twice.
    """
    wanted: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not (key and equals and values):
            raise ConfigError(f"{word!r} is no filter: KEY=VALUE, or KEY=VALUE,VALUE")
        if key in wanted:
            raise ConfigError(f"{key} is filtered twice; give both values at once: {key}=A,B")
        wanted[key] = tuple(OUTSIDE_BRACKETS.split(values))
    return Filters(wanted)


def _told_by_record(record: RunRecord) -> dict[str, str]:
    named = {
        "dataset": record.dataset,
        "fingerprint": record.fingerprint,
        "model": record.model,
        "seed": str(record.seed),
    }
    return {**_told_by_config(record.choices, record.config), **named}


def _told_by_config(choices: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    return {**dict(flat(config)), **choices}


def _some(values: Iterable[str], most: int = 8) -> str:
    ordered = sorted(values)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return f"{', '.join(ordered[:most])}{more}"
