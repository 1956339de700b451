"""What to do about lines of a raw file that are none."""

from dataclasses import dataclass
from typing import Literal

DEFAULT_MOST = 1000


@dataclass(frozen=True)
class Tolerance:
    """`stop` at the first faulty line, or `skip` up to `most` of them and account for each."""

    on_error: Literal["stop", "skip"] = "stop"
    most: int = DEFAULT_MOST

    @property
    def limit(self) -> int:
        """So many faults are too many."""
        return 1 if self.on_error == "stop" else self.most + 1


STRICT = Tolerance()
