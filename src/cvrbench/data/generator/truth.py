"""The planted task structure: true probabilities, and the labels that they give.

    shared    = .45 cat + .55 <P_user, Q_cat> / sqrt(8) + .22 v508
    logit CTR = b1 + drift + .55 shared + .30 item + .22 brand + .18 scene + .30 x
    logit CVR = b2 + .60 shared + .50 shop + .30 v509 + .30 f126 + .25 f127 + .20 f125 - .40 x
    x         = conflict * e[121]

So 101, 206 and 508 serve both tasks, 205, 216 and 301 clicks alone, 125, 126, 127, 207 and 509
conversions alone, and 121 pulls the two apart. What a row does not say (an unnamed user, a missing
profile, no token 508) adds 0: apart from the drift along the file, a model that sees the row can
know the truth.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit

from cvrbench.data.generator.options import GeneratorConfig
from cvrbench.data.generator.sample import Sample, Tokens, draw
from cvrbench.data.generator.text import COUNT_VALUES
from cvrbench.data.generator.values import Doubles, Rng
from cvrbench.data.generator.world import FACTORS, PROFILE, World
from cvrbench.rng import numpy_stream

DRIFT = 0.39
"""Fall of the click logit from a file's first row to its last: 4.6 to 3.3 % by deciles."""
CALIBRATION_CONTEXTS, CALIBRATION_LENGTH = 6000, 10
"""Many short contexts: what users differ in matters more than what rows of one context do."""
Labels = npt.NDArray[np.uint8]


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
    """Give the truth of rows at `place`, their position in the file from 0 to 1."""
    ctr, cvr = logits(world, config, sample, place)
    return Truth(expit(ctr + plan.b1), expit(cvr + plan.b2))


def labels(truth: Truth, anomaly: float, rng: Rng) -> tuple[Labels, Labels]:
    """Draw clicks and conversions; a conversion without a click is an anomaly."""
    u = rng.random((3, len(truth.ctr)))
    click = u[0] < truth.ctr
    # `anomaly` is a share of all rows, but only those without a click can be one.
    odd = u[2] * (1 - truth.ctr) < anomaly
    return click.astype(np.uint8), np.where(click, u[1] < truth.cvr, odd).astype(np.uint8)


def calibrate(world: World, config: GeneratorConfig) -> Plan:
    """Find the intercepts that give the asked-for rates, from a sample of its own."""

    def stream(name: str) -> Rng:
        return numpy_stream(config.seed, "calibration", name)

    length = np.full(CALIBRATION_CONTEXTS, CALIBRATION_LENGTH)
    sample = draw(world, config.hist, length, stream)
    place = stream("place").random(len(sample.item))
    ctr, cvr = logits(world, config, sample, place)
    b1 = _intercept(ctr, np.ones(len(ctr)), config.ctr)
    click = expit(ctr + b1)
    b2 = _intercept(cvr, click, config.cvr)
    conversion = expit(cvr + b2)
    bayes = {
        "auc_ctr": expected_auc(click, np.ones(len(click))),
        "auc_cvr": expected_auc(conversion, click),
        "auc_ctcvr": expected_auc(click * conversion, np.ones(len(click))),
        "logit_correlation": float(np.corrcoef(ctr, cvr)[0, 1]),
    }
    return Plan(b1, b2, bayes)


def logits(
    world: World, config: GeneratorConfig, sample: Sample, place: Doubles
) -> tuple[Doubles, Doubles]:
    """Both tasks' logits without intercept, `[rows]`."""
    contexts, row = sample.contexts, sample.row_context
    e, item = world.effects, sample.item
    category = world.items.category[item]
    user = world.users.factors[contexts.user] * contexts.named[:, None]
    product = np.einsum("rf,rf->r", user[row], world.category_factors[category])
    shared = (
        0.45 * e["206"][category]
        + 0.55 / np.sqrt(FACTORS) * product
        + 0.22 * _values(sample.crossed["206"], len(item))
    )
    profile = world.users.profile[contexts.user]
    f = {name: e[name][profile[:, PROFILE.index(name)]] for name in ("121", "125", "126", "127")}
    x = config.conflict * f["121"]
    ctr = (
        DRIFT * (0.5 - place)
        + 0.55 * shared
        + 0.30 * e["205"][item]
        + 0.22 * e["216"][world.items.brand[item]]
        + 0.18 * e["301"][sample.scene]
        + 0.30 * x[row]
    )
    cvr = (
        0.60 * shared
        + 0.50 * e["207"][world.items.shop[item]]
        + 0.30 * _values(sample.crossed["207"], len(item))
        + (0.30 * f["126"] + 0.25 * f["127"] + 0.20 * f["125"] - 0.40 * x)[row]
    )
    return ctr.astype(np.float64), cvr.astype(np.float64)


def expected_auc(score: Doubles, weight: Doubles) -> float:
    """AUC of true probabilities over rows with weights, labels averaged out (ties are not met)."""
    order = np.argsort(score)
    positive = (weight * score)[order]
    negative = (weight * (1 - score))[order]
    below = np.cumsum(negative) - negative / 2
    # Not a product of BLAS, whose last bits follow its number of threads.
    return float((positive * below).sum() / (positive.sum() * negative.sum()))


def _values(tokens: Tokens, rows: int) -> Doubles:
    """A crossed field's value in each row as the file has it, 0 where there is none."""
    values = np.zeros(rows)
    values[tokens.row] = COUNT_VALUES[tokens.counts]
    return values


def _intercept(logit: Doubles, weight: Doubles, rate: float) -> float:
    """The intercept at which the weighted mean probability is `rate`."""

    def excess(intercept: float) -> float:
        return float(np.average(expit(logit + intercept), weights=weight)) - rate

    return float(brentq(excess, -60.0, 60.0))
