"""What configurations have in common: their base class, and ranges of values."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

FORBID_EXTRA = {"extra": "forbid", "allow_inf_nan": False}
Fraction = Annotated[float, Gt(0), Lt(1)]
Count = Annotated[int, Ge(1), Le(10**9)]
Threads = Annotated[int, Ge(1), Le(1024)]
"""Threads of a process, or processes: with more, the system refuses them or stands still."""
Seed = Annotated[int, Ge(0), Lt(2**31)]
Width = Annotated[int, Ge(1), Le(10**6)]
Layers = Annotated[tuple[Width, ...], MinLen(1)]
Dropout = Annotated[float, Ge(0), Lt(1)]
Text = Annotated[str, MinLen(1)]
OPTION = r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z"
"""What an option of a config group may be called; it is a part of paths, and no path."""
Policy = Literal["refuse", "drop", "keep", "zero_conversion"]
"""What happens to a row whose label is 1 while its parent's is 0 (a conversion without a click): it
stops the preparation, is dropped, is kept as it is, or has its conversion set to 0."""
Value = float | int | bool | str | None
"""What a searched key may be, as a study keeps it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Values that yaml must name, each of them and no other."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
