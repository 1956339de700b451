"""The planted log: exposures, clicks and conversions drawn from a known model.

Every value v of every field f has, per task t, an effect and a factor vector of length 4:

    z_t = main_t + interaction_t
    main_t        = sum_f ( effect_t[f, v_f] + conflict * s_t * clash[f, v_f] ),   s = (+1, -1)
    interaction_t = sum_{f < g} < factor_t[f, v_f], factor_t[g, v_g] >
    P(click) = sigmoid(a + z_1),   P(conversion | click) = sigmoid(b + z_2)

Effects and interactions of the two tasks are correlated by `correlation`; `clash` pulls the tasks
apart, with opposite signs of one quantity, which a single unit can carry for both. Main part and
interactions are scaled to 60 and 40 % of the variance, each z_t to the deviation `signal`, and a
and b are solved for the wanted rates. Users recur: a user has `rows / users` exposures on average,
fewer or more by Zipf's law. The true probabilities are kept as columns.

With `private_pairs` of K, two thirds of the variance of z_t are

    pairs_t = sum_{k < K} u_kt[f, v_f] w_kt[g, v_g],   signs u, w; (f, g) the k-th pair of fields

in which the tasks have no sign in common: a trunk that serves both has twice as many products to
compute, and one task's are noise to the other. This conflict takes width, where `clash` takes none.

An exposure that was not clicked would have converted with

    P(conversion | no click) = sigmoid(b + z_2 - selection_bias)

the probability by which `cvr_*_unclicked` judge. At 0 clicks and conversions depend on each other
through the features alone; otherwise clicks say more about a conversion than the features do. The
log is the same whatever the dial says: what is not observed cannot be learned from it.

`synthetic_watch` has a watch ratio in the place of the conversion, drawn from the Beta distribution
whose mean is that probability.
"""

from itertools import combinations

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.dataset import SyntheticConfig, SyntheticWatchConfig
from cvrbench.data.raw import (
    Fractions,
    RawStream,
    by_group,
    by_time,
    click_conversion,
    feature_fields,
    table_chunks,
)
from cvrbench.errors import DataError
from cvrbench.system.machine import available_memory
from cvrbench.system.rng import numpy_stream

N_FACTORS = 4
LARGEST_INTERCEPT = 60.0
ROW_BYTES, VALUE_BYTES = 320, 200
"""Memory while the log is drawn, per row (and 16 for each field) and per value of a field."""
MAIN_SHARE = 0.6
PAIRS_SHARE = 2 / 3
TASKS = click_conversion("click", "conversion")
WATCH_TASKS = click_conversion("click", "watch", "ratio")
LEAST_RATIO = 1e-6
"""A click's watch ratio is never 0."""
TRUTH = ("p_click", "p_conversion")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def load(config: SyntheticConfig) -> RawStream:
    """Draw the log and split it.

    Raises:
        DataError: There is no such log, or not the memory to hold it.
    """
    from scipy.special import expit  # half a second that only who draws a log pays

    sizes = {"user_id": config.users, "item_id": config.items}
    sizes |= {f"field_{k + 1}": config.cardinality for k in range(config.n_fields)}
    _check_memory(config.rows, sizes)
    ids = {
        name: _zipf(config.rows, size, config.zipf, numpy_stream(config.data_seed, "ids", name))
        for name, size in sizes.items()
    }
    logits = _logits(config, ids, sizes)
    p_click = expit(logits[0] + intercept(logits[0], np.ones(config.rows), config.click_rate))
    b = intercept(logits[1], p_click, config.conversion_rate)
    p_conversion = expit(logits[1] + b)
    draw = numpy_stream(config.data_seed, "labels").random((2, config.rows))
    click = draw[0] < p_click
    conversion, tasks = (click & (draw[1] < p_conversion)).astype(np.uint8), TASKS
    if isinstance(config, SyntheticWatchConfig):
        conversion, tasks = click * _ratios(config, p_conversion), WATCH_TASKS
    table = pl.DataFrame(
        {
            **ids,
            "time": np.arange(config.rows),
            "click": click.astype(np.uint8),
            tasks[1].label: conversion,
            TRUTH[0]: p_click,
            TRUTH[1]: p_conversion,
        }
    )
    fractions = Fractions(config.valid_fraction, config.test_fraction, config.data_seed)
    if config.split == "time":
        split = by_time(table["time"], fractions)
    else:
        split = by_group(table["user_id"], fractions)
    return RawStream(
        chunks=table_chunks(table.with_columns(split), {"read": config.rows}),
        fields=feature_fields(list(ids), min_count=config.min_count),
        tasks=tasks,
        group="user_id",
        group_disjoint=config.split == "user",
        truth=TRUTH,
    )


def _ratios(config: SyntheticWatchConfig, mean: Floats) -> Floats:
    """Draw a Beta of the given mean and concentration in every row."""
    a, b = config.concentration * mean, config.concentration * (1 - mean)
    drawn = numpy_stream(config.data_seed, "ratios").beta(a, b)
    return np.clip(drawn, LEAST_RATIO, 1.0)


def _check_memory(rows: int, sizes: dict[str, int]) -> None:
    needed = rows * (ROW_BYTES + 16 * len(sizes)) + VALUE_BYTES * sum(sizes.values())
    free = available_memory().n_bytes
    if needed > free:
        raise DataError(
            f"drawing {rows:,} rows of {sum(sizes.values()):,} values needs about "
            f"{needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free; lower "
            "dataset.rows or the number of values"
        )


def _zipf(rows: int, size: int, skew: float, rng: np.random.Generator) -> Ints:
    weights = 1.0 / np.arange(1, size + 1) ** skew
    return rng.choice(size, size=rows, p=weights / weights.sum()).astype(np.int64)


def _logits(config: SyntheticConfig, ids: dict[str, Ints], sizes: dict[str, int]) -> Floats:
    """Both tasks' logits without intercept, `[2, rows]`."""
    main = np.zeros((2, config.rows))
    total = np.zeros((2, config.rows, N_FACTORS))
    squares = np.zeros((2, config.rows))
    sign = np.array([1.0, -1.0])[:, None]
    for name, values in ids.items():
        rng = numpy_stream(config.data_seed, "effects", name)
        effect = _correlated(rng.standard_normal((2, sizes[name])), config.correlation)
        clash = rng.standard_normal(sizes[name])
        # A product of two factors correlates by the square of what the factors do.
        factor = _correlated(
            rng.standard_normal((2, sizes[name], N_FACTORS)), abs(config.correlation) ** 0.5
        )
        main += (effect + config.conflict * sign * clash)[:, values]
        total += factor[:, values]
        squares += (factor**2).sum(axis=2)[:, values]
    # sum over pairs of <f, g> = (|sum f|^2 - sum |f|^2) / 2 (Rendle 2010, lemma 3.1)
    interaction = ((total**2).sum(axis=2) - squares) / 2
    if config.correlation < 0:
        interaction[1] *= -1
    mixed = MAIN_SHARE**0.5 * _unit(main) + (1 - MAIN_SHARE) ** 0.5 * _unit(interaction)
    if config.private_pairs:
        pairs = _unit(_private_pairs(config, ids, sizes))
        mixed = PAIRS_SHARE**0.5 * pairs + (1 - PAIRS_SHARE) ** 0.5 * _unit(mixed)
    return config.signal * _unit(mixed)


def _private_pairs(config: SyntheticConfig, ids: dict[str, Ints], sizes: dict[str, int]) -> Floats:
    """Each task's sum of products of signs, `[2, rows]`; no two tasks or products share a sign."""
    # Not of users and items, where there are two other fields: too many values to be learned.
    few = [name for name in ids if name not in ("user_id", "item_id")]
    fields = [*combinations(few if len(few) > 1 else ids, 2)]
    order = numpy_stream(config.data_seed, "pairs").permutation(len(fields))
    pairs = np.zeros((2, config.rows))
    for number in range(config.private_pairs):
        rng = numpy_stream(config.data_seed, "pairs", number)
        first, second = (
            rng.choice([-1.0, 1.0], size=(2, sizes[name]))[:, ids[name]]
            for name in fields[order[number % len(fields)]]
        )
        pairs += first * second
    return pairs


def _correlated(pair: Floats, correlation: float) -> Floats:
    """Make the second of two independent standard normals correlate with the first."""
    own = (1 - correlation**2) ** 0.5
    return np.stack([pair[0], correlation * pair[0] + own * pair[1]])


def _unit(values: Floats) -> Floats:
    """Centre and scale each row to deviation 1 (0 where a row is constant)."""
    centred = values - values.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    scaled: Floats = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    return scaled


def intercept(logit: Floats, weight: Floats, rate: float) -> float:
    """Return the intercept at which the weighted mean probability is `rate`."""
    from scipy.optimize import brentq
    from scipy.special import expit

    def excess(intercept: float) -> float:
        return float(np.average(expit(logit + intercept), weights=weight)) - rate

    if not excess(-LARGEST_INTERCEPT) < 0 < excess(LARGEST_INTERCEPT):
        raise DataError(
            f"logits of deviation {np.std(logit):g} have no mean probability of {rate:g}; give a "
            "smaller signal or conflict"
        )
    return float(brentq(excess, -LARGEST_INTERCEPT, LARGEST_INTERCEPT))
