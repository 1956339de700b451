"""Plain values into a frozen `Config` and back: pydantic checks them against the dataclasses."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import date
from functools import cache
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from cvrbench.config import schema
from cvrbench.errors import ConfigError

GROUPS = ("dataset", "model", "objective", "balancing", "trainer", "protocol", "logger")
BEFORE: dict[str, dict[str, Any]] = {
    "logger": {"kind": "none"},  # which records leave out: who watched is no part of a result
    "protocol": {"label_share": 1.0, "label_share_task": None},
    "trainer": {"check_memory": True, "data": "auto"},
}
"""Keys that saved configs may lack, and what was done before they could be chosen."""
RULES = {
    "date": "a day such as 2022-05-03",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "tuple": "a list",
    "too_short": "a list of at least one",
}
"""Kinds of pydantic's errors whose own words suit a programmer more than a user."""


def config_to_dict(config: schema.Config) -> dict[str, Any]:
    """Give a config as plain values that JSON and yaml hold without loss."""
    plain: dict[str, Any] = _jsonable(asdict(config))
    return plain


def config_from_dict(values: Mapping[str, Any]) -> schema.Config:
    """Validate plain values into a config.

    Raises:
        ConfigError: A key is missing or unknown, or a value is out of its range.
    """
    parts = {key: value for key, value in values.items() if key not in GROUPS}
    declared = {field.name: field.type for field in fields(schema.Config)}
    for group in GROUPS:
        parts[group] = validated(declared[group], values.get(group), group)
    return _validate_root(parts)


def config_from_saved(values: Mapping[str, Any]) -> schema.Config:
    """Validate the config of a run; what an earlier version knew no key for, it did like this.

    Raises:
        ConfigError: As `config_from_dict`.
    """
    earlier = {
        group: {**keys, **known}
        for group, keys in BEFORE.items()
        if isinstance(known := values.get(group, {}), Mapping)
    }
    return config_from_dict({**values, **earlier})


def validated(declared: Any, values: Any, group: str) -> Any:
    """Validate a group's values into its dataclass, picked by `kind` where there are several.

    Args:
        declared: The dataclass, or a union of some.
        values: What must fill it.
        group: What messages call it.

    Raises:
        ConfigError: `kind` is none of the union's, a key is missing or unknown, or a value is out
            of its range.
    """
    cls = _dataclass_of(declared, values, group)
    try:
        return _adapter(cls).validate_python(values)
    except ValidationError as error:
        raise _as_config_error(error, group) from None


def _dataclass_of(declared: Any, values: Any, group: str) -> type:
    options = get_args(declared) or (declared,)
    if len(options) == 1:
        assert isinstance(options[0], type)
        return options[0]
    kinds = {get_args(cls.__annotations__["kind"])[0]: cls for cls in options}
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{group}.kind must be one of {', '.join(sorted(kinds))}; got {kind!r}")
    found: type = kinds[kind]
    return found


def _validate_root(parts: Mapping[str, Any]) -> schema.Config:
    try:
        # The groups are validated already; only what stands beside them is left to check.
        found: schema.Config = _adapter(schema.Config).validate_python(dict(parts))
    except ValidationError as error:
        raise _as_config_error(error, "") from None
    return found


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    """Build a dataclass's validator, which costs a hundred times what it takes to use it."""
    return TypeAdapter(cls)


def _as_config_error(error: ValidationError, prefix: str) -> ConfigError:
    problem = error.errors()[0]
    where = [str(part) for part in problem["loc"]]
    key = ".".join([prefix, *where] if prefix else where)
    if problem["type"] == "missing":
        return ConfigError(f"{key} is missing from its yaml file")
    if problem["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return ConfigError(f"unknown key {key!r} in its yaml file")
    rule = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return ConfigError(f"{key or prefix}: {rule}")
    for kind, words in RULES.items():
        if problem["type"].startswith(kind):
            rule = words
    return ConfigError(f"{key} must be {rule}; got {problem['input']!r}")


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value
