"""How far each test row, or each user's rows, moves a run's metrics: read from its predictions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.schema import Task
from cvrbench.errors import StoreError
from cvrbench.record import RunRecord
from cvrbench.report.predicted import predicted_spaces
from cvrbench.spaces import Space
from cvrbench.stats.bootstrap import (
    Resampling,
    auc_draws,
    common_draw_variance,
    gauc_draws,
    log_loss_draws,
)
from cvrbench.stats.influence import (
    Floats,
    Labels,
    auc_influence,
    common_row_variance,
    gauc_influence_of_groups,
    log_loss_influence,
    row_variance,
)

Codes = npt.NDArray[Any]
KINDS = ("auc", "logloss", "gauc")
"""Metrics whose differences are tested; what calibration loses, log loss shows."""


class Rows(NamedTuple):
    """The test rows of one space."""

    digest: bytes
    """Of labels and users: what two runs must have in common."""
    labels: Labels
    users: Codes | None
    """`[rows]`, numbered from 0; None where the data have no users."""
    redrawn: Resampling | None
    """How they are redrawn; None where the variance is a formula's."""


class Moves(NamedTuple):
    """One run's metric, and how far each test row moves it."""

    run_id: str
    kind: str
    """One of `KINDS`."""
    value: float
    rows: Rows
    influence: Floats
    """`[rows]`, or `[users]` where rows are drawn user by user."""

    draws: Floats
    """`[draws]`: the metric on redrawn rows; empty where the variance is a formula's."""

    def variance(self, influence: Floats) -> float:
        """Variance over redrawn rows or users of what is moved so, a mean of such as this."""
        return row_variance(influence, self.strata)

    @property
    def strata(self) -> Labels | None:
        """Labels, where rows of either class are redrawn in their given number (DeLong)."""
        return self.rows.labels if self.kind == "auc" and self.rows.users is None else None


@dataclass
class MovesReader:
    """Reads runs that were tested on the same rows, each once; after the first, side by side."""

    tasks: Sequence[Task]
    draws: int = 0
    """Bootstrap draws of the test rows; 0: the variance is a formula's."""
    known: dict[str, Rows] = field(default_factory=dict)
    """Space -> its rows, as the first run had them."""

    def read(self, run: RunRecord, frame: pl.DataFrame) -> dict[str, Moves]:
        """Give metric -> `Moves` of every tested metric that is defined.

        Args:
            run: A record.
            frame: Its predictions on the test rows.

        Raises:
            StoreError: The predictions are not of the rows of the record, or of other rows than
                those of the runs before.
        """
        groups = frame["group"].to_numpy() if "group" in frame.columns else None
        moves = {}
        for space in predicted_spaces(run.run_id, self.tasks, frame):
            rows = self._rows(space, groups, run)
            predicted = space.take(space.predicted).astype(np.float64)
            order = np.argsort(predicted)  # once: AUC and GAUC both rank by it
            for kind in KINDS:
                metric = f"{space.name}_{kind}"
                value = run.metrics["test"].get(metric)
                if value is not None:
                    moved = _influence(kind, rows, predicted, order)
                    drawn = _draws(kind, rows, predicted)
                    moves[metric] = Moves(run.run_id, kind, value, rows, moved, drawn)
        return moves

    def _rows(self, space: Space, groups: Labels | None, run: RunRecord) -> Rows:
        """Give a space's rows; those of the run before where they are the same."""
        labels = space.take(space.label)
        drawn = None if groups is None else space.take(groups)
        digest = hashlib.blake2b(np.ascontiguousarray(labels).tobytes())
        digest.update(b"" if drawn is None else np.ascontiguousarray(drawn).tobytes())
        known = self.known.get(space.name)
        if known is None:
            users = None if drawn is None else _numbered(drawn)
            redrawn = None
            if self.draws:
                redrawn = Resampling(rows=len(labels), groups=users, draws=self.draws)
            known = self.known[space.name] = Rows(digest.digest(), labels, users, redrawn)
        elif known.digest != digest.digest():
            raise StoreError(f"{run.run_id}: its predictions are not of the same test rows")
        defined = run.metrics["test"].get(f"{space.name}_auc") is not None
        if defined and not 0 < known.labels.sum() < len(known.labels):
            raise StoreError(f"{run.run_id}: its predictions are not of the same test rows")
        return known


def doubt_of_rows(pairs: Sequence[tuple[Moves, Moves]]) -> float:
    """Give the variance over redrawn test rows of what the seeds' differences have in common.

    What rows do to one seed alone is in the seeds' spread already.
    """
    first = pairs[0][0]
    if len(first.draws):
        drawn = np.array([one.draws - other.draws for one, other in pairs])
        if (~np.isnan(drawn).any(axis=0)).sum() < 2:
            raise StoreError(f"{first.run_id}: hardly any redrawn test rows have both classes")
        return common_draw_variance(drawn)
    gains = np.array([one.influence - other.influence for one, other in pairs])
    return common_row_variance(gains, first.strata)


def _numbered(users: Labels) -> Codes:
    """Number users from 0, in 16 bits where they fit: these sort by counting."""
    found, codes = np.unique(users, return_inverse=True)
    return codes.astype(np.uint16 if len(found) <= 2**16 else np.int64)


def _influence(kind: str, rows: Rows, predicted: Floats, order: Codes) -> Floats:
    """Give what each row moves, or each user's rows together where there are users."""
    match kind:
        case "auc":
            moved = auc_influence(rows.labels, predicted, order)
        case "logloss":
            moved = log_loss_influence(rows.labels, predicted)
        case _:
            return gauc_influence_of_groups(rows.labels, predicted, _users(rows), order)
    if rows.users is None:
        return moved
    return np.bincount(rows.users, weights=moved).astype(np.float64, copy=False)


def _draws(kind: str, rows: Rows, predicted: Floats) -> Floats:
    if rows.redrawn is None:
        return np.empty(0)
    match kind:
        case "auc":
            return auc_draws(rows.labels, predicted, rows.redrawn)
        case "logloss":
            return log_loss_draws(rows.labels, predicted, rows.redrawn)
        case _:
            return gauc_draws(rows.labels, predicted, _users(rows), rows.redrawn)


def _users(rows: Rows) -> Codes:
    """Give the users that a GAUC was computed by."""
    if rows.users is None:
        raise StoreError("a record tells a GAUC, and its predictions have no users")
    return rows.users
