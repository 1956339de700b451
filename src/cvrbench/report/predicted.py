"""A run's predictions on the test rows, space by space, checked before anything is made of them."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from cvrbench.data.schema import Task
from cvrbench.errors import StoreError
from cvrbench.spaces import Space, spaces


def predicted_spaces(run_id: str, tasks: Sequence[Task], frame: pl.DataFrame) -> list[Space]:
    """Give every space of a run's predictions.

    Args:
        run_id: What an error names.
        tasks: Of the run.
        frame: As `ResultStore.predictions` reads it.

    Raises:
        StoreError: A column is missing or holds what is no label or no probability, or there are
            no rows.
    """
    labels = [f"label_{task.name}" for task in tasks]
    conditional = [f"p_{task.name}" for task in tasks]
    joint = [f"p_{task.joint or task.name}" for task in tasks]
    for name in dict.fromkeys([*labels, *conditional, *joint]):
        if name not in frame.columns:
            raise StoreError(f"{run_id}: its predictions lack the column {name}; run it again")
        column = frame[name]
        if not column.dtype.is_numeric() or not column.is_finite().all() or column.has_nulls():
            raise StoreError(
                f"{run_id}: its predictions hold no numbers in {name}; run the cell again with "
                "--force"
            )
    if frame.is_empty():
        raise StoreError(f"{run_id}: its predictions have no rows; run the cell again with --force")
    arrays = [frame.select(names).to_numpy() for names in (labels, conditional, joint)]
    return list(spaces(tasks, arrays[0].astype(np.uint8, copy=False), *arrays[1:]))
