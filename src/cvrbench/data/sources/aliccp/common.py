"""The common features of one half of the data: which row of them an index names."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from cvrbench.data.sources.aliccp.explain import Reason
from cvrbench.data.sources.aliccp.parse import Fault
from cvrbench.data.sources.aliccp.parts import SINGLES, Part

USER = "101"
ABSENT = -1
_USER_COLUMN = SINGLES["common"].index(USER)


class CommonIndex:
    """Common rows by their index; rows are numbered as they stand in the file.

    Attributes:
        users: int32 `[rows]`, the user of each row; 0 where it has none.
        faults: Rows whose index an earlier row has; nothing refers to them.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        pieces = [(part.index, part.line, part.singles[:, _USER_COLUMN]) for part in parts]
        index = np.concatenate([np.empty(0, np.uint64), *(piece[0] for piece in pieces)])
        line = np.concatenate([np.empty(0, np.int64), *(piece[1] for piece in pieces)])
        self.users = np.concatenate([np.empty(0, np.int32), *(piece[2] for piece in pieces)])
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        first = np.ones(len(index), np.bool_)
        first[1:] = ordered[1:] != ordered[:-1]
        self._keys, self._rows = ordered[first], order[first].astype(np.int32)
        self.faults = [
            Fault(int(line[row]), Reason("duplicate index", f"index {int(index[row]):016x} again"))
            for row in np.sort(order[~first])
        ]

    def __len__(self) -> int:
        """Rows."""
        return len(self.users)

    def lookup(self, index: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Give the row of each index, `ABSENT` where there is none."""
        if not len(self._keys):
            return np.full(len(index), ABSENT, np.int32)
        place = np.minimum(np.searchsorted(self._keys, index), len(self._keys) - 1)
        found: npt.NDArray[np.int32] = np.where(
            self._keys[place] == index, self._rows[place], np.int32(ABSENT)
        )
        return found


def missing(part: Part, context: npt.NDArray[np.int32]) -> list[Fault]:
    """Give the skeleton rows whose index is not in the common file."""
    return [
        Fault(
            int(part.line[row]),
            Reason("unknown index", f"index {int(part.index[row]):016x} is not in the common file"),
        )
        for row in np.flatnonzero(context == ABSENT)
    ]
