"""Plain values into a frozen `Config` and back: pydantic checks them against the dataclasses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from datetime import date
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError

from cvrbench.config import schema
from cvrbench.config.ncs import from_flat
from cvrbench.errors import ConfigError

GROUPS = (
    "dataset",
    "interaction",
    "model",
    "objective",
    "balancing",
    "trainer",
    "protocol",
    "logger",
)
BEFORE: dict[str, dict[str, Any]] = {
    "interaction": {"kind": "none"},
    "logger": {"kind": "none"},  # which records leave out: who watched is no part of a result
    "protocol": {"label_share": 1.0, "label_share_task": None},
    "trainer": {
        "check_memory": True,
        "data": "auto",
        "schedule": "constant",
        "clip_norm": None,
    },
}
"""Keys that saved configs may lack, and what was done before they could be chosen."""
BINARY = ("kind", "binary")
"""Key of a table's task that plain values leave out, as before there were others."""
RULES = {
    "date": "a day such as 2022-05-03",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "tuple": "a list, as [128,64]",
    "too_short": "a list of at least one",
    "string_type": "a text; put what is written there in quotes",
    "string_too_short": "a text that is not empty",
    "finite": "a finite number",
}
"""Kinds of pydantic's errors, and types, whose own names suit a programmer more than a user."""
WORDS: dict[Any, str] = {
    int: RULES["int"],
    float: RULES["float"],
    bool: RULES["bool"],
    str: "a text",
    NoneType: "null",
}
"""What a user calls a scalar type."""
LIMITS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
"""Words for the limits of a number."""


def config_to_dict(config: schema.Config) -> dict[str, Any]:
    """Return a config as plain values that JSON and yaml hold without loss."""
    plain: dict[str, Any] = _jsonable(asdict(config))
    return plain


def leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one level of dotted keys: `{"model.hidden": [128, 64], ...}`."""
    if not isinstance(values, Mapping) or (not values and prefix):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


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
    dataset = values.get("dataset")
    if isinstance(dataset, Mapping) and dataset.get("kind") == "synthetic":
        earlier["dataset"] = {"selection_bias": 0.0, **dataset}
    return config_from_dict(current_keys({**values, **earlier}))


def current_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved config with the keys of a mask search grouped as they are today."""
    model = config.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("search"), str):
        return dict(config)
    try:
        return {**config, "model": from_flat(model)}
    except (KeyError, TypeError, ValueError):  # damaged: what is wrong shows when it is validated
        return dict(config)


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
        raise _as_config_error(error, cls, group) from None


def _dataclass_of(declared: Any, values: Any, group: str) -> type:
    options = get_args(declared) or (declared,)
    if len(options) == 1:
        assert isinstance(options[0], type)
        return options[0]
    kinds = {kind: cls for cls in options for kind in _kinds_of(cls)}
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        names = ", ".join(sorted(kinds))
        raise ConfigError(f"{group}.kind must be one of {names}; got {kind!r}")
    found: type = kinds[kind]
    return found


def _validate_root(parts: Mapping[str, Any]) -> schema.Config:
    try:
        # The groups are validated already; only what stands beside them is left to check.
        found: schema.Config = _adapter(schema.Config).validate_python(dict(parts))
    except ValidationError as error:
        raise _as_config_error(error, schema.Config, "") from None
    return found


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    """Build a dataclass's validator, which costs a hundred times what it takes to use it."""
    return TypeAdapter(cls)


def _as_config_error(error: ValidationError, cls: type, prefix: str) -> ConfigError:
    problem = error.errors()[0]
    if problem["type"].startswith("union_tag"):
        key = ".".join([prefix, *map(str, problem["loc"]), "kind"])
        return ConfigError(f"{key} must be one of {problem['ctx'].get('expected_tags', '...')}")
    where, alternatives = _place(cls, problem["loc"])
    key = ".".join([prefix, *where] if prefix else where)
    if alternatives:
        return ConfigError(f"{key} must be {_any_of(alternatives)}, not {problem['input']!r}")
    if problem["type"] == "missing" and len(where) > 1:
        parent = key.rpartition(".")[0]
        return ConfigError(f"{parent} lacks {where[-1]}; write {{..., {where[-1]}: ...}}")
    if problem["type"] == "missing":
        return ConfigError(f"{key} is missing from its yaml file")
    if problem["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return ConfigError(f"unknown key {key!r} in its yaml file")
    rule = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return ConfigError(f"{key or prefix}: {rule}" if key or prefix else rule)
    for kind, words in RULES.items():
        if problem["type"].startswith(kind):
            rule = words
    return ConfigError(f"{key} must be {rule}; got {problem['input']!r}")


def _place(cls: type, loc: Sequence[str | int]) -> tuple[list[str], tuple[Any, ...]]:
    """Split pydantic's place of an error into what a user writes, and what could stand there.

    Where several types could, pydantic goes on with the name of the one that it tried last.

    Returns:
        Keys and numbers of a list, and the types at their end if they are scalars and several.
    """
    declared: Any = cls
    for depth, part in enumerate(loc):
        options = _options(declared)
        if tagged := [o for o in options if isinstance(o, type) and part in _kinds_of(o)]:
            where, alternatives = _place(tagged[0], loc[depth + 1 :])
            return [*map(str, loc[:depth]), *where], alternatives
        several = [option for option in options if option is not NoneType]
        if len(several) > 1:
            known = all(get_origin(_plain(o)) is Literal or _plain(o) in WORDS for o in several)
            return (list(map(str, loc[:depth])), options) if known else (list(map(str, loc)), ())
        declared = _inside(_plain(several[0]), part)
    return list(map(str, loc)), ()


def _kinds_of(cls: type) -> tuple[str, ...]:
    """Return the tags that pick a dataclass from its union; none for one that is in none."""
    return get_args(getattr(cls, "__annotations__", {}).get("kind"))


def _options(declared: Any) -> tuple[Any, ...]:
    plain = _plain(declared)
    return get_args(plain) if get_origin(plain) in (Union, UnionType) else (declared,)


def _plain(declared: Any) -> Any:
    """Take limits off a type."""
    return get_args(declared)[0] if get_origin(declared) is Annotated else declared


def _inside(declared: Any, part: str | int) -> Any:
    """Return the type of a dataclass's field, a tuple's item or a dict's value, or Any."""
    if is_dataclass(declared) and isinstance(declared, type):
        return get_type_hints(declared, include_extras=True).get(str(part), Any)
    arguments = get_args(declared)
    if get_origin(declared) is tuple and isinstance(part, int):
        return arguments[0 if arguments[-1] is Ellipsis else part]
    return arguments[1] if get_origin(declared) is dict else Any


def _any_of(types: Sequence[Any]) -> str:
    """Return what may stand where several types may: `auto or a whole number (at least 1)`."""
    words: list[str] = []
    for declared in types:
        plain = _plain(declared)
        if get_origin(plain) is Literal:
            words += map(str, get_args(plain))
            continue
        limits = [
            f"{LIMITS[type(limit)]} {getattr(limit, type(limit).__name__.lower()):,}"
            for limit in getattr(declared, "__metadata__", ())
            if type(limit) in LIMITS
        ]
        words.append(WORDS[plain] + (f" ({', '.join(limits)})" if limits else ""))
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items() if (k, v) != BINARY}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value
