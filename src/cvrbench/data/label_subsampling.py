"""Hiding of training labels of one task: which ones a run may learn from.

Rows stay; labels are hidden. What a task's label says without being looked at cannot be hidden: a
row outside the task's space (no click) has the label 0. All other labels are drawn in strata, of
one value each, so that the base rate stays what it is:

    of a stratum of n labels keep k = max(1, round(share n)),  each with the weight n / k

The weights are those of Horvitz and Thompson (JASA 1952), the inverse of the chance to be kept:
with them the mean loss estimates, without bias, what it would be with all labels, also where kept
labels and labels known anyway stand side by side (`entire_space`: without weights the share that is
kept would be learnt as a lower conversion rate). Where only drawn labels count, as in click space,
they are all the same but for rounding.

A stratum is put in order once by the run's seed, and its first k labels are kept: what is kept at
1 per cent is kept at 3, and the same for every strategy. A label below a hidden one in the chain of
tasks is hidden, too: whether it is defined would tell.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cvrbench.data.schema import Schema, Task
from cvrbench.errors import ConfigError, did_you_mean
from cvrbench.system.rng import numpy_stream


def scarce_task(tasks: Sequence[Task], name: str | None) -> int:
    """Return the index of the task whose labels are hidden.

    Args:
        tasks: The dataset's tasks.
        name: A task's name; None for the last task that has a parent, else the last.

    Raises:
        ConfigError: No task has this name.
    """
    names = [task.name for task in tasks]
    if name is None:
        nested = [index for index, task in enumerate(tasks) if task.parent is not None]
        return nested[-1] if nested else len(tasks) - 1
    if name not in names:
        raise ConfigError(
            f"protocol.label_share_task={name!r} is no task of this dataset."
            f"{did_you_mean(name, names)} Choices: {', '.join(names)}, or null for "
            f"{names[scarce_task(tasks, None)]}"
        )
    return names.index(name)


def label_weights(
    schema: Schema,
    labels: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
    task: int,
    *,
    share: float,
    seed: int,
    given: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32] | None:
    """Return the weight of each label of the training rows.

    Args:
        schema: The dataset's.
        labels: `[rows, tasks]`, 0 or 1; a ratio is positive above 0.
        task: Index of the task whose labels are hidden.
        share: Share of the task's labels that is kept, in `(0, 1]`.
        seed: The run's seed.
        given: The dataset's own weights, of which only the ratios count.

    Returns:
        `[rows, tasks]`: 0 for a hidden label, above 1 for one that stands for others, 1 for all
        other tasks, times what is given. None where nothing is hidden or given.
    """
    if given is not None:  # the losses' means take weights to be 0 or at least 1
        given = given / given[given > 0].min()
    if share == 1:
        return given
    seen = given[:, task] > 0 if given is not None else True
    *ancestors, own = schema.chain(task)
    inside = labels[:, ancestors].all(axis=1)
    positive = labels[:, own] > 0
    strata = {
        "positive": inside & positive,
        "negative": inside & ~positive,
        # Only in data that keep conversions without a click.
        "positive outside": ~inside & positive,
    }
    weight = np.ones(len(labels), np.float32)
    for name, stratum in strata.items():
        stream = numpy_stream(seed, "label_share", schema.tasks[task].name, name)
        rows = stream.permutation(np.flatnonzero(stratum & seen))
        kept = max(1, round(share * len(rows)))
        weight[rows[:kept]] = len(rows) / kept
        weight[rows[kept:]] = 0
    below = [t for t in range(len(schema.tasks)) if task in schema.chain(t)]
    weights = np.ones(labels.shape, np.float32)
    weights[:, below] = weight[:, None]
    return weights if given is None else weights * given
