"""Rows drawn from the world, and the planted truth of their labels.

A context is one page view of a user: a block of rows with one `common_feature_index` and one
history. A history is a multiset of events with items; all history fields count its events, so a
crossed field of an exposed item agrees with them.

    shared    = .45 cat + .55 <P_user, Q_cat> / sqrt(8) + .22 v508
    logit CTR = b1 + drift + .55 shared + .30 item + .22 brand + .18 scene + .30 x
    logit CVR = b2 + .60 shared + .50 shop + .30 v509 + .30 f126 + .25 f127 + .20 f125 - .40 x
    x         = conflict * e[121]

So 101, 206 and 508 serve both tasks, 205, 216 and 301 clicks alone, 125, 126, 127, 207 and 509
conversions alone, and 121 pulls the two apart. What a row does not say (an unnamed user, a missing
profile, no token 508) adds 0: apart from the drift along the file, a model that sees the row can
know the truth.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit

from cvrbench.data.generator.world import (
    CROSSED,
    FACTORS,
    FAVOURITES,
    PROFILE,
    SCENE_SHARES,
    Bools,
    Doubles,
    GeneratorConfig,
    Ints,
    Longs,
    Rng,
    World,
    pick,
)
from cvrbench.system.rng import numpy_stream

Streams = Callable[[str], Rng]
"""Returns the generator of a named stream."""
Labels = npt.NDArray[np.uint8]

MEAN_LENGTH, MAX_LENGTH = 57.9, 2000
UNNAMED = 0.0022
UNSEEN, HALF_SEEN = 0.0024, 0.0095
"""Cumulative: contexts without any history, then those that keep nothing but 150_14."""
MEAN_EVENTS, EVENTS_SIGMA, MAX_EVENTS = 330, 0.5, 4095
FAVOURITE_EVENT, REPEATED_EVENT = 0.65, 0.25
SAME_SHOP_EXPOSURE, SAME_CATEGORY_EXPOSURE = 0.14, 0.35
"""Past shops are shown, and past events repeated, as often as the real coverage of 509 asks."""
FOREIGN = {"206": 0.01, "207": 0.1, "216": 0.05, "210": 0.01}
"""Share of events whose shop and so on are never exposed; by skeleton field."""
WITH_INTENTION = 0.75
"""Share of events that count one of their item's intentions."""
ID_BITS = 24
DRIFT = 0.39
"""Fall of the click logit from a file's first row to its last: 4.6 to 3.3 % by deciles."""
CALIBRATION_CONTEXTS, CALIBRATION_LENGTH = 6000, 10
"""Many short contexts: what users differ in matters more than what rows of one context do."""


def log_of_count(count: Doubles) -> list[str]:
    """Return ln(1 + count) with five decimals, trailing zeros cut."""
    texts = [f"{value:.5f}".rstrip("0") for value in np.log1p(count)]
    return [text + "0" if text.endswith(".") else text for text in texts]


COUNT_VALUES = np.array([0.0, *map(float, log_of_count(np.arange(1.0, MAX_EVENTS + 1)))])
"""Value of each count as the files have it; 0 for no token."""


class Tokens(NamedTuple):
    """Features of one field, rows ascending: row, id, and count (0 where the value is 1.0)."""

    row: Longs
    ids: Ints
    counts: Longs


class Sample(NamedTuple):
    """Contexts with their rows.

    Attributes:
        length, user: Number of rows and user, `[contexts]`.
        named: Whether field 101 is there, `[contexts]`.
        context: Context of each row, ascending, `[rows]`.
        item, scene: Exposed item and value of field 301, `[rows]`.
        histories: Tokens by skeleton field that they count, `row` being the context.
        crossed: Tokens of the crossed fields, by skeleton field.
        intentions: Row and intention of the exposed items, rows ascending.
    """

    length: Longs
    user: Longs
    named: Bools
    context: Longs
    item: Longs
    scene: Longs
    histories: dict[str, Tokens]
    crossed: dict[str, Tokens]
    intentions: tuple[Longs, Ints]


class _Events(NamedTuple):
    """Past events; `start[k]` is the first of context k's `sizes[k]`."""

    context: Longs
    item: Longs
    start: Longs
    sizes: Longs


def lengths(rng: Rng, rows: int) -> Longs:
    """Rows of each context: log-normal with mean 57.9, the last cut so that they sum to `rows`."""
    drawn = np.zeros(0, np.int64)
    while drawn.sum() < rows:
        more = rng.lognormal(np.log(MEAN_LENGTH) - 0.5, 1.0, 16 + rows // 50)
        drawn = np.append(drawn, np.clip(np.rint(more), 1, MAX_LENGTH).astype(np.int64))
    ends = np.cumsum(drawn)
    n = int(np.searchsorted(ends, rows)) + 1
    drawn[n - 1] -= ends[n - 1] - rows
    return drawn[:n]


def draw(world: World, config: GeneratorConfig, length: Longs, stream: Streams) -> Sample:
    """Draw contexts of the given lengths, their histories and their rows."""
    rng, n = stream("contexts"), len(length)
    unseen, user, named = rng.random(n), pick(world.user_cum, rng.random(n)), rng.random(n)
    is_named = named >= UNNAMED
    events = _events(world, config.hist, user, unseen >= UNSEEN, stream("events"))
    histories = _histories(world, unseen >= HALF_SEEN, events, stream("histories"))
    context = np.repeat(np.arange(n), length)
    item = _exposures(world, events, context, stream("exposures"))
    carried = world.n_intentions[item].astype(np.int64)
    row = np.repeat(np.arange(len(item)), carried)
    slot = np.arange(len(row)) - np.repeat(np.cumsum(carried) - carried, carried)
    intention, every = world.intention(item[row], slot), np.arange(len(item))
    values = {
        "206": (every, world.category[item]),
        "207": (every, world.shop[item]),
        "216": (every, world.brand[item]),
        "210": (row, intention),
    }
    shares = np.cumsum(SCENE_SHARES)
    return Sample(
        length=length,
        user=user,
        named=is_named,
        context=context,
        item=item,
        scene=pick(shares, stream("scenes").random(len(item)) * shares[-1]),
        histories=histories,
        crossed={k: _cross(world, k, histories[k], context, *values[k]) for k in CROSSED},
        intentions=(row, intention),
    )


def _events(world: World, hist: float, user: Longs, seen: Bools, rng: Rng) -> _Events:
    n = len(user)
    mean = np.log(MEAN_EVENTS * hist) - EVENTS_SIGMA**2 / 2
    count = np.rint(rng.lognormal(mean, EVENTS_SIGMA, n)).astype(np.int64)
    count = np.clip(count, 1, MAX_EVENTS) * seen
    context = np.repeat(np.arange(n), count)
    favourite = world.favourites[user[context], rng.integers(FAVOURITES, size=len(context))]
    item = _items(world, favourite, rng.random(len(context)) < FAVOURITE_EVENT, rng)
    start = np.cumsum(count) - count
    again = np.flatnonzero(rng.random(len(context)) < REPEATED_EVENT)
    of = context[again]
    item[again] = item[start[of] + (rng.random(len(again)) * count[of]).astype(np.int64)]
    return _Events(context, item, start, count)


def _items(world: World, category: Ints, within: Bools, rng: Rng) -> Longs:
    """Draw an item by popularity: of the category where `within`, else of all."""
    starts = world.category_range
    edge = np.where(starts > 0, world.item_cum[starts - 1], 0.0)
    first = np.where(within, edge[category], 0.0)
    last = np.where(within, edge[category + 1], 1.0)
    return pick(world.item_cum, first + rng.random(len(category)) * (last - first))


def _histories(world: World, fully: Bools, events: _Events, rng: Rng) -> dict[str, Tokens]:
    """Count events by context and id; values that never occur in histories are passed over."""
    n = world.n_intentions[events.item]
    slot = (rng.random(len(n)) * n).astype(np.int64)
    has_intention = (n > 0) & (rng.random(len(n)) < WITH_INTENTION)
    values = {
        "206": world.category[events.item],
        "207": world.shop[events.item],
        "216": world.brand[events.item],
        "210": np.where(has_intention, world.intention(events.item, slot), -1),
    }
    histories = {}
    for name, value in values.items():
        crossing = world.crossings[name]
        ids = crossing.past[value]
        # A small world may have no value of its own for histories.
        foreign = rng.random(len(ids)) < (FOREIGN[name] if len(crossing.foreign) else 0.0)
        # The cube prefers low numbers: some foreign values are popular too.
        other = rng.random(int(foreign.sum())) ** 3 * len(crossing.foreign)
        ids[foreign] = crossing.foreign[other.astype(np.int64)]
        known = ids > 0
        if name != "210":
            known &= fully[events.context]
        key, count = np.unique(_key(events.context[known], ids[known]), return_counts=True)
        ids = (key & ((1 << ID_BITS) - 1)).astype(np.int32)
        histories[name] = Tokens(key >> ID_BITS, ids, count)
    return histories


def _key(row: Longs, ids: Ints) -> Longs:
    """One number for a row and an id, ordered by row first."""
    return np.asarray((row << ID_BITS) | ids)


def _exposures(world: World, events: _Events, context: Longs, rng: Rng) -> Longs:
    """Items shown: of a past event's shop, of its category, or popular ones."""
    n = len(context)
    past = events.sizes[context]
    kind = np.where(past > 0, rng.random(n), 1.0)
    event = events.start[context] + (rng.random(n) * past).astype(np.int64)
    seen = events.item[np.minimum(event, len(events.item) - 1)] if len(events.item) else event * 0
    within = kind < SAME_SHOP_EXPOSURE + SAME_CATEGORY_EXPOSURE
    item = _items(world, world.category[seen], within, rng)
    again = np.flatnonzero(kind < SAME_SHOP_EXPOSURE)
    shop = world.shop[seen[again]]
    first, last = world.shop_range[shop], world.shop_range[shop + 1]
    item[again] = world.shop_items[first + (rng.random(len(again)) * (last - first)).astype(int)]
    return item


def _cross(
    world: World, name: str, history: Tokens, context: Longs, rows: Longs, value: Ints
) -> Tokens:
    """Tokens of the values that the row's history has, with their counts there."""
    crossing = world.crossings[name]
    known = _key(history.row, history.ids)
    wanted = _key(context[rows], crossing.past[value])
    if len(known) == 0:
        return Tokens(rows[:0], crossing.crossed[value[:0]], rows[:0])
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    hit = np.flatnonzero(known[at] == wanted)
    return Tokens(rows[hit], crossing.crossed[value[hit]], history.counts[at[hit]])


class Plan(NamedTuple):
    """Intercepts, and what the best possible model would reach.

    Attributes:
        b1, b2: Intercepts of the click and the conversion logit.
        bayes: Expected AUCs of the true probabilities, over all rows (`ctr`, `ctcvr`) and over
            clicked ones (`cvr`), and the correlation of the two logits.
    """

    b1: float
    b2: float
    bayes: dict[str, float]


class Truth(NamedTuple):
    """True probabilities of a click, and of a conversion given a click, `[rows]` in (0, 1)."""

    ctr: Doubles
    cvr: Doubles


def probabilities(
    world: World, config: GeneratorConfig, plan: Plan, sample: Sample, place: Doubles
) -> Truth:
    """Return the truth of rows at `place`, their position in the file from 0 to 1."""
    ctr, cvr = _logits(world, config.conflict, sample, place)
    return Truth(expit(ctr + plan.b1), expit(cvr + plan.b2))


def draw_labels(truth: Truth, anomaly: float, rng: Rng) -> tuple[Labels, Labels]:
    """Draw clicks and conversions; a conversion without a click is an anomaly."""
    u = rng.random((3, len(truth.ctr)))
    click = u[0] < truth.ctr
    # `anomaly` is a share of all rows, but only those without a click can be one.
    odd = u[2] * (1 - truth.ctr) < anomaly
    return click.astype(np.uint8), np.where(click, u[1] < truth.cvr, odd).astype(np.uint8)


def calibrate(world: World, config: GeneratorConfig) -> Plan:
    """Find the intercepts that give the wanted rates, from a sample of its own."""

    def stream(name: str) -> Rng:
        return numpy_stream(config.seed, "calibration", name)

    length = np.full(CALIBRATION_CONTEXTS, CALIBRATION_LENGTH)
    sample = draw(world, config, length, stream)
    place = stream("place").random(len(sample.item))
    click_logit, conversion_logit = _logits(world, config.conflict, sample, place)
    all_rows = np.ones(len(place))
    b1 = _intercept(click_logit, all_rows, config.ctr)
    click = expit(click_logit + b1)
    b2 = _intercept(conversion_logit, click, config.cvr)
    conversion = expit(conversion_logit + b2)
    bayes = {
        "auc_ctr": _expected_auc(click, all_rows),
        "auc_cvr": _expected_auc(conversion, click),
        "auc_ctcvr": _expected_auc(click * conversion, all_rows),
        "logit_correlation": float(np.corrcoef(click_logit, conversion_logit)[0, 1]),
    }
    return Plan(b1, b2, bayes)


def _logits(
    world: World, conflict: float, sample: Sample, place: Doubles
) -> tuple[Doubles, Doubles]:
    """Both tasks' logits without intercept, `[rows]`."""
    row, item, e = sample.context, sample.item, world.effects
    category = world.category[item]
    user = world.user_factors[sample.user] * sample.named[:, None]
    product = np.einsum("rf,rf->r", user[row], world.category_factors[category])
    shared = (
        0.45 * e["206"][category]
        + 0.55 / np.sqrt(FACTORS) * product
        + 0.22 * _values(sample.crossed["206"], len(item))
    )
    profile = world.profile[sample.user]
    f = {name: e[name][profile[:, PROFILE.index(name)]] for name in ("121", "125", "126", "127")}
    x = conflict * f["121"]
    ctr = (
        DRIFT * (0.5 - place)
        + 0.55 * shared
        + 0.30 * e["205"][item]
        + 0.22 * e["216"][world.brand[item]]
        + 0.18 * e["301"][sample.scene]
        + 0.30 * x[row]
    )
    cvr = (
        0.60 * shared
        + 0.50 * e["207"][world.shop[item]]
        + 0.30 * _values(sample.crossed["207"], len(item))
        + (0.30 * f["126"] + 0.25 * f["127"] + 0.20 * f["125"] - 0.40 * x)[row]
    )
    return ctr.astype(np.float64), cvr.astype(np.float64)


def _values(tokens: Tokens, rows: int) -> Doubles:
    """A crossed field's value in each row as the file has it, 0 where there is none."""
    values = np.zeros(rows)
    values[tokens.row] = COUNT_VALUES[tokens.counts]
    return values


def _expected_auc(score: Doubles, weight: Doubles) -> float:
    """AUC of true probabilities over rows with weights, labels averaged out (ties are not met)."""
    order = np.argsort(score)
    positive = (weight * score)[order]
    negative = (weight * (1 - score))[order]
    below = np.cumsum(negative) - negative / 2
    # Not a product of BLAS, whose last bits follow its number of threads.
    return float((positive * below).sum() / (positive.sum() * negative.sum()))


def _intercept(logit: Doubles, weight: Doubles, rate: float) -> float:
    """The intercept at which the weighted mean probability is `rate`."""

    def excess(intercept: float) -> float:
        return float(np.average(expit(logit + intercept), weights=weight)) - rate

    return float(brentq(excess, -60.0, 60.0))
