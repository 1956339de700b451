"""Search spaces in Hydra's own grammar, as dimensions.

`interval(0.1,1)` is any number between, `int(interval(1,8))` any whole one,
`tag(log,interval(a,b))` spreads evenly in the logarithm, `1..8` and `range(1,9)` are 1 to 8 (a
third number is the step), and `choice(a,b,[64,32])` is one of these; with `null` among them,
without the word: `null,a,b`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
)

from cvrbench.config.compose import parse
from cvrbench.config.types import Value
from cvrbench.errors import ConfigError

LONGEST = 1_000_000
"""Values of a dimension that are counted; beyond it nobody wants to walk them."""
HOW = "write interval(a,b), tag(log,interval(a,b)), int(interval(a,b)), a..b or choice(a,b)"


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A dimension of numbers; both ends belong to it."""

    key: str
    text: str
    """As it was written."""
    low: float
    high: float
    log: bool
    step: float | None
    """Distance of neighbours; None: any number."""
    integer: bool

    def ends(self) -> list[str]:
        """Return overrides at the borders, where a value that the config refuses would show."""
        return [self.word(self.low), self.word(self.high)]

    def word(self, value: Value) -> str:
        """Return a value as an override."""
        return f"{self.key}={self.plain_of(value)!r}"

    def plain_of(self, value: Value) -> Any:
        """Return a value as a config holds it."""
        assert isinstance(value, int | float)
        return int(value) if self.integer else float(value)

    def own(self, value: Any) -> Value:
        """Convert a config value to this dimension's domain; ValueError outside it."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high or not self._is_on_step(value):
            raise ValueError(f"{value!r} is no value of {self.text}")
        return int(value) if self.integer else float(value)

    def _is_on_step(self, value: float) -> bool:
        if self.integer and value != int(value):
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def grid(self) -> list[Value]:
        """Return all values; ValueError where there is no end of them."""
        if self.step is None:
            raise ValueError(f"{self.text} is continuous")
        n = min(round((self.high - self.low) / self.step) + 1, LONGEST)
        return [self.plain_of(self.low + self.step * i) for i in range(n)]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A dimension of values without an order."""

    key: str
    text: str
    """As it was written."""
    values: tuple[Value, ...]
    """As a study keeps them: scalars, and lists as their text."""
    plain: tuple[Any, ...]
    """As a config keeps them."""
    words: tuple[str, ...]

    def ends(self) -> list[str]:
        """Return overrides with every value."""
        return list(self.words)

    def word(self, value: Value) -> str:
        """Return a value as an override."""
        return self.words[self.values.index(value)]

    def plain_of(self, value: Value) -> Any:
        """Return a value as a config holds it."""
        return self.plain[self.values.index(value)]

    def own(self, value: Any) -> Value:
        """Convert a config value to this dimension's domain; ValueError outside it."""
        if value not in self.plain:
            raise ValueError(f"{value!r} is no value of {self.text}")
        return self.values[self.plain.index(value)]

    def grid(self) -> list[Value]:
        """Return all values."""
        return list(self.values)


Dimension = Numbers | Choice


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Dimensions that only some configurations have."""

    key: str
    value: Any
    word: str
    dimensions: tuple[Dimension, ...]


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched."""

    always: tuple[Dimension, ...]
    when: tuple[Condition, ...]

    def dimensions(self) -> list[Dimension]:
        """Return all dimensions, conditional ones last."""
        return [*self.always, *(d for condition in self.when for d in condition.dimensions)]

    def check_ranges(self, where: str) -> None:
        """Refuse two ranges of one key, which no study can hold.

        Raises:
            ConfigError: A key has two.
        """
        texts: dict[str, str] = {}
        for dimension in self.dimensions():
            if texts.setdefault(dimension.key, dimension.text) != dimension.text:
                raise ConfigError(
                    f"{where}: {dimension.key} is {texts[dimension.key]} in one place and "
                    f"{dimension.text} in another; a key has one range in all of a space"
                )

    def walk(self, take: Callable[[Dimension], Any]) -> None:
        """Visit the dimensions that a configuration has; `take` returns its value of each."""
        taken = {dimension.key: take(dimension) for dimension in self.always}
        for condition in self.when:
            if condition.key in taken and taken[condition.key] == condition.value:
                taken |= {dimension.key: take(dimension) for dimension in condition.dimensions}


def read_space(
    always: Mapping[str, str], when: Mapping[str, Mapping[str, str]], *, where: str
) -> Space:
    """Read a space from its plain form.

    Args:
        always: Key -> values in Hydra's grammar.
        when: Condition (`model.search=learned`) -> the same; counts where the condition holds.
        where: What the reader is told the space comes from.

    Raises:
        ConfigError: A text is no dimension or upside down, or the space is empty.
    """
    conditions = []
    for condition, keys in when.items():
        (parsed,) = parse([condition])
        if parsed.is_sweep_override():
            raise ConfigError(f"{where}: the condition {condition!r} must name one value")
        conditions.append(
            Condition(
                key=parsed.key_or_group,
                value=_plain(parsed.value()),
                word=condition,
                dimensions=_dimensions(keys, where),
            )
        )
    space = Space(always=_dimensions(always, where), when=tuple(conditions))
    if not space.dimensions():
        raise ConfigError(f"{where} names nothing to search; {HOW}: model.density=interval(0.1,1)")
    return space


def is_dimension(override: Override) -> bool:
    """Whether an override on the command line is a dimension rather than several runs: a, b, c."""
    value = override.value()
    return override.is_sweep_override() and not (
        isinstance(value, ChoiceSweep) and value.simple_form
    )


def _dimensions(keys: Mapping[str, str], where: str) -> tuple[Dimension, ...]:
    return tuple(_dimension(key, str(text), where) for key, text in keys.items())


def _dimension(key: str, text: str, where: str) -> Dimension:
    try:
        (override,) = parse([f"{key}={text}"])
    except ConfigError:
        raise ConfigError(f"{where}: {key}={text} is no dimension; {HOW}") from None
    value = override.value()
    if getattr(value, "shuffle", False):
        raise ConfigError(f"{where}: {key}={text}: an order means nothing here; leave shuffle out")
    if isinstance(value, ChoiceSweep):
        return _choice(key, text, override, value)
    if isinstance(value, IntervalSweep | RangeSweep):
        return _numbers(key, text, value, f"{where}: {key}={text}")
    raise ConfigError(f"{where}: {key}={text} is no dimension; {HOW}")


def _numbers(key: str, text: str, sweep: IntervalSweep | RangeSweep, name: str) -> Numbers:
    integer, log = "int" in sweep.tags, "log" in sweep.tags
    if unknown := sorted(sweep.tags - {"int", "log"}):
        raise ConfigError(f"{name}: unknown tag {unknown[0]!r}; there are log and int")
    ends = (sweep.start, sweep.step if isinstance(sweep, RangeSweep) else sweep.end)
    low, step = float(sweep.start or 0), 0.0
    if isinstance(sweep, RangeSweep):
        step, distance = float(sweep.step), float(sweep.stop or 0) - low
        # Hydra's range leaves its end out, as Python's.
        n = math.ceil(distance / step - 1e-9) if math.isfinite(distance) and step else 0
        high = low + step * (n - 1)
    else:
        high = float(sweep.end or 0)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{name}: both ends must be finite numbers")
    integer = integer or all(isinstance(end, int) for end in ends)
    if isinstance(sweep, RangeSweep) and (step <= 0 or high < low):
        raise ConfigError(f"{name}: the range is empty; it goes up and leaves its end out")
    if isinstance(sweep, IntervalSweep) and low >= high:
        raise ConfigError(f"{name}: the interval is upside down or empty; write the smaller first")
    if log and (low <= 0 or (step and step != 1)):
        raise ConfigError(f"{name}: a logarithm needs numbers above 0, and steps of 1 if any")
    if integer and not step:
        step = 1.0
    return Numbers(
        key=key, text=text, low=low, high=high, log=log, step=step or None, integer=integer
    )


def _choice(key: str, text: str, override: Override, sweep: ChoiceSweep) -> Choice:
    words = tuple(f"{key}={value}" for value in override.sweep_string_iterator())
    plain = tuple(_plain(value) for value in sweep.list)
    if len(set(words)) < len(words):
        raise ConfigError(f"{key}={text}: a value is listed twice")
    values = tuple(
        one if one is None or isinstance(one, bool | int | float | str) else word.partition("=")[2]
        for one, word in zip(plain, words, strict=True)
    )
    return Choice(key=key, text=text, values=values, plain=plain, words=words)


def _plain(value: Any) -> Any:
    """A value of Hydra's parser, whose strings may be quoted, as a config holds it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
