"""A tree of plain values as one level of dotted keys."""

from collections.abc import Mapping
from typing import Any


def leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts: `{"model.hidden": [128, 64], ...}`."""
    if not isinstance(values, Mapping) or (not values and prefix):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
