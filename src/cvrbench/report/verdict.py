"""The verdict: which rows may be the best, which one to take, and what would settle the rest.

The same lines stand at the top of the terminal, the page, Markdown and LaTeX. Nothing in them is
more than is shown: a row is out if it is shown worse than another (`stats.best`), and where several
are left none of them is called the winner.
"""

import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from cvrbench.errors import ConfigError, did_you_mean
from cvrbench.metrics.evaluation import describe_metric, ranking_metric, selectable
from cvrbench.report import MARGIN, MOST_SEEDS
from cvrbench.report.comparison import OUTSIDE_BRACKETS, Comparison, Variant, flat_settings, mixed
from cvrbench.report.differences import FEW_USERS, KINDS, Influence
from cvrbench.report.tables import duration, p_value, percent
from cvrbench.runs.record import RunRecord
from cvrbench.stats.best import Best, Joint, best, joint
from cvrbench.stats.difference import Difference, equivalence, holm
from cvrbench.stats.influence import Floats, Labels, folded, folded_labels
from cvrbench.stats.power import detectable, rows_factor_needed, seeds_needed
from cvrbench.stats.sequential import looks, share

MOST_NEEDED = 200
"""Seeds that a pair may need; more are as good as no number."""
MOST_ROWS = 1000
"""Times the test rows, likewise."""
AUTO = ("seeds", "max_seeds", "max_minutes", "margin")
"""Words of `cvrbench run seeds=auto` that are no overrides."""
UNMARGINED = ("_logloss", "_rmse", "_mae")
"""Ends of the names of metrics of which no margin is given."""
MOST_TOLD = 3
"""Pairs whose settling is told in words; JSON has all."""
ALIKE = 1.05
"""Costs of up to that many times the least count as equal."""


def primary(comparison: Comparison, wanted: str | None = None) -> str:
    """Return the metric of a verdict: the wanted one, or AUC of the last task in its own space.

    Raises:
        ConfigError: No comparison of these tasks has it, or nothing is tested in it.
    """
    if wanted is None:
        return ranking_metric(comparison.tasks[-1].name, comparison.tasks)
    tested = [f"{name}_{kind}" for name in comparison.counts for kind in KINDS]
    valid = [metric for metric in tested if metric in selectable(comparison.tasks)]
    if wanted not in valid:
        raise ConfigError(
            f"--metric {wanted}: no such metric of {comparison.dataset}."
            f"{did_you_mean(wanted, valid)} Choices: {', '.join(valid)}"
        )
    return wanted


class Kept(NamedTuple):
    """One run's metric, and how far each test row moves it, in little memory."""

    value: float
    digest: bytes
    influence: Floats
    strata: Labels | None
    freedom: float


@dataclass
class InfluenceKeeper:
    """Keeps what verdicts need of every run that is read."""

    metrics: Sequence[str]
    kept: dict[str, dict[str, Kept]] = field(default_factory=dict)
    """Metric -> id of a run -> what is kept of it."""

    def add(self, run: RunRecord, found: Mapping[str, Influence]) -> None:
        """Keep a run."""
        for metric in self.metrics:
            if metric in found:
                self.kept.setdefault(metric, {})[run.run_id] = _kept(found[metric])


def _kept(found: Influence) -> Kept:
    freedom = found.rows.freedom
    if len(found.draws):
        moved = (found.draws - np.nanmean(found.draws)) / math.sqrt(len(found.draws))
        return Kept(found.value, found.rows.digest, np.nan_to_num(moved), None, freedom)
    labels = found.strata
    if found.rows.users is not None:
        return Kept(found.value, found.rows.digest, found.influence, None, freedom)
    strata = None if labels is None else folded_labels(labels)
    moved = folded(found.influence, labels)
    return Kept(found.value, found.rows.digest, moved, strata, freedom)


class Out(NamedTuple):
    """A row that is shown not to be the best."""

    row: str
    to: str
    """The row that beats it most clearly; of the best means it may be another."""
    difference: float
    """Its metric less that row's."""
    p: float
    """Over all rows at once."""


class Settle(NamedTuple):
    """What would settle whether two rows differ by the margin."""

    pair: tuple[str, str]
    difference: float
    half_width: float
    shows: float
    """The difference that these seeds and rows find four times in five."""
    seeds: int | None
    """More seeds that find the margin on these test rows; None where no number does."""
    rows: float | None
    """Times the test rows that find it with these seeds, where seeds are not enough."""
    minutes: float | None
    command: str | None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One metric of all rows that can be judged."""

    metric: str
    header: str
    labels: tuple[str, ...]
    found: Joint
    best: Best
    sign: int
    """-1 where less is better."""
    looks: int = 1
    """How often the row of the most seeds was looked at while seeds were added."""

    @property
    def inside(self) -> tuple[str, ...]:
        """The best set, the likeliest first."""
        order = np.argsort(-self.best.chance, kind="stable")
        return tuple(self.labels[k] for k in order if self.best.inside[k])

    @property
    def outside(self) -> tuple[Out, ...]:
        """The rows that are shown worse than another, the nearest first."""
        rows = [
            Out(label, self.labels[to], self.sign * float(self.found.gains(k, to).mean()), float(p))
            for k, (label, p, to) in enumerate(
                zip(self.labels, self.best.p, self.best.rival, strict=True)
            )
            if not self.best.inside[k]
        ]
        return tuple(sorted(rows, key=lambda one: abs(one.difference)))

    def loss(self, label: str) -> float:
        """What a row gives up against the best, at most."""
        return float(self.best.loss[self.labels.index(label)])


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The verdict on one comparison."""

    name: str
    metric: str
    header: str
    margin: float
    about: str
    """`9 strategies, 5 seeds, 24,600 test rows`."""
    why: str
    ranking: Ranking | None = None
    """None where there are not two rows to choose from."""
    take: str | None = None
    others: tuple[str, ...] = ()
    """A sentence for each other AUC."""
    settle: tuple[Settle, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """`Verdict on kuairand, CVR AUC (clicked): 9 strategies, ...`."""
        return f"Verdict on {self.name}, {self.header}: {self.about}"

    @property
    def lines(self) -> list[str]:
        """All that follows the title, a sentence or two each."""
        found = [self.why]
        if self.ranking is not None:
            found += _set_lines(self.ranking)
        return [*found, *self.others, *_settle_lines(self), *self.remarks]

    def __str__(self) -> str:
        """Return the title and all that follows it."""
        return "\n".join([self.title, *self.lines])

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        ranking = self.ranking
        chances = (
            {} if ranking is None else dict(zip(ranking.labels, ranking.best.chance, strict=True))
        )
        return {
            "metric": self.metric,
            "take": self.take,
            "why": self.why,
            "gives_up_at_most": None
            if ranking is None or self.take is None
            else ranking.loss(self.take),
            "margin": self.margin,
            "best_set": [] if ranking is None else list(ranking.inside),
            "chances": {label: float(chance) for label, chance in chances.items()},
            "out": [] if ranking is None else [one._asdict() for one in ranking.outside],
            "others": list(self.others),
            "settle": [one._asdict() for one in self.settle],
            "remarks": list(self.remarks),
        }


def recommend(
    comparison: Comparison,
    keeper: InfluenceKeeper,
    metric: str,
    margin: float = MARGIN,
    most_seeds: int | None = None,
) -> Recommendation:
    """Return the verdict on a comparison.

    Args:
        comparison: The rows.
        keeper: Of all runs that could be read.
        metric: The one to choose by.
        margin: Difference that matters.
        most_seeds: Where seeds are being added in rounds: how many there will be at most.
    """
    ranking = _rank(comparison, keeper, metric, most_seeds)
    by_label = {variant.label: variant for variant in comparison.variants}
    judged = [by_label[label] for label in (ranking.labels if ranking else by_label)]
    n_rows = comparison.counts[metric.rpartition("_")[0]]["rows"]
    found = Recommendation(
        name=comparison.name,
        metric=metric,
        header=comparison.header(metric),
        margin=margin,
        about=f"{_n(len(judged), 'strategy')}, {_seeds_words(judged)}, {n_rows:,} test rows",
        why="Nothing to choose from: it takes two strategies with a seed in common.",
    )
    if ranking is None:
        return found
    take, reason = _choose([by_label[label] for label in ranking.inside], ranking)
    names = [name for name in comparison.auc_metrics if name != metric]
    others = (_rank(comparison, keeper, name, most_seeds) for name in names)
    words = (_other_words(one, take.label) for one in others if one is not None)
    return replace(
        found,
        ranking=ranking,
        take=take.label,
        why=_why(ranking, take, reason, margin),
        others=tuple(one for one in words if one is not None),
        settle=tuple(_settle(ranking, by_label, take.label, margin)),
        remarks=(
            *_remarks(ranking, [one for one in by_label if one not in ranking.labels]),
            *mixed(comparison),
        ),
    )


def _remarks(ranking: Ranking, left_out: Sequence[str]) -> Iterator[str]:
    """Yield what limits a verdict."""
    if left_out:
        yield f"Not judged, for want of two seeds in common: {', '.join(left_out)}."
    if ranking.looks > 1:
        yield (
            f"Seeds were added in rounds (seeds=auto): looked at {ranking.looks} times, which p "
            "accounts for."
        )
    if ranking.found.single:
        yield (
            "One seed: the doubt is that of the test rows alone, so this is about these trained "
            "networks; another seed may turn it round."
        )
    if ranking.found.freedom < FEW_USERS - 1:
        effective = ranking.found.freedom + 1
        yield (
            f"Few users, or a few heavy ones: worth {effective:.1f} of equal size, which every ± "
            "and p accounts for."
        )


def _rank(
    comparison: Comparison, keeper: InfluenceKeeper, metric: str, most_seeds: int | None
) -> Ranking | None:
    """Judge every row that has its seeds in common with the others; None for fewer than two."""
    kept = keeper.kept.get(metric, {})
    # By row, not as they were read: threads read in any order.
    ids = [run.run_id for variant in comparison.variants for run in variant.runs]
    digests = Counter(kept[one].digest for one in ids if one in kept)
    usual = digests.most_common(1)[0][0] if digests else b""
    runs = {
        variant.label: {
            run.seed: kept[run.run_id]
            for run in variant.runs
            if run.run_id in kept and kept[run.run_id].digest == usual
        }
        for variant in comparison.variants
    }
    rows = _comparable({label: of for label, of in runs.items() if of})
    if len(rows) < 2:
        return None
    seeds = sorted({seed for of in rows.values() for seed in of})
    sign = -1 if describe_metric(metric, comparison.tasks).direction == "lower" else 1
    values = np.full((len(rows), len(seeds)), np.nan)
    for k, of in enumerate(rows.values()):
        for seed, one in of.items():
            values[k, seeds.index(seed)] = sign * one.value
    influences = [
        {seeds.index(seed): one.influence for seed, one in of.items()} for of in rows.values()
    ]
    first = next(iter(next(iter(rows.values())).values()))
    found = joint(values, influences, first.strata, first.freedom)
    by_label = {variant.label: variant for variant in comparison.variants}
    planned = [most_seeds or _planned_seeds(by_label[label]) for label in rows]
    shares, looked = [1.0], 1
    if any(planned):
        counts = [len(of) for of in rows.values()]
        both = list(zip(planned, counts, strict=True))
        shares = [share(most, n) if most else 1.0 for most, n in both]
        looked = max(sum(n >= look for look in looks(most)) for most, n in both if most)
    judged = best(found)
    return Ranking(
        metric=metric,
        header=comparison.header(metric),
        labels=tuple(rows),
        found=found,
        best=judged._replace(p=np.minimum(judged.p / np.array(shares), 1.0)),
        sign=sign,
        looks=max(looked, 1),
    )


def _planned_seeds(row: Variant) -> int | None:
    """Return the most seeds of a plan with `seeds=auto`, as the commands of the runs tell."""
    for run in row.runs:
        words = str(run.environment.get("command") or "").split()
        if "seeds=auto" in words:
            given = [word.partition("=")[2] for word in words if word.startswith("max_seeds=")]
            return int(given[-1]) if given and given[-1].isdecimal() else MOST_SEEDS
    return None


def _comparable(rows: dict[str, dict[int, Kept]]) -> dict[str, dict[int, Kept]]:
    """Return rows of which every two have two seeds in common; else those of one same seed."""

    def in_common(first: str, second: str) -> int:
        return len(rows[first].keys() & rows[second].keys())

    left = [label for label in rows if len(rows[label]) > 1]
    while lacking := Counter(
        label for pair in combinations(left, 2) if in_common(*pair) < 2 for label in pair
    ):
        left.remove(max(left, key=lambda label: (lacking[label], -len(rows[label]))))
    if len(left) > 1 or not rows:
        return {label: rows[label] for label in left}
    seed = Counter(seed for of in rows.values() for seed in of).most_common(1)[0][0]
    return {label: {seed: of[seed]} for label, of in rows.items() if seed in of}


def _choose(inside: Sequence[Variant], ranking: Ranking) -> tuple[Variant, str]:
    """Return the cheapest, and in which way it is: by multiply-adds, by training, by its mean."""
    if len(inside) == 1:
        return inside[0], ""
    costs: dict[str, Callable[[Variant], float]] = {
        "the cheapest of the best set": lambda variant: variant.runs[0].multiply_adds,
        "the cheapest of the best set to train": lambda variant: variant.examples,
    }
    reason, left = "", list(inside)
    for words, cost in costs.items():
        least = min(map(cost, left))
        cheap = [one for one in left if cost(one) <= ALIKE * least]
        reason = words if len(cheap) < len(left) else reason
        left = cheap
    if len(left) > 1:
        means = [ranking.labels.index(one.label) for one in left]
        top = max(means, key=lambda i: min(ranking.found.gains(i, j).mean() for j in means))
        left = [one for one in left if one.label == ranking.labels[top]]
        reason = f"{reason} with the best mean" if reason else "the best mean at equal cost"
    return left[0], reason


def _why(ranking: Ranking, take: Variant, reason: str, margin: float) -> str:
    """Return which row to take, what is shown of it, and what it may cost to be wrong."""
    n, inside = len(ranking.labels), ranking.inside
    if len(inside) == 1:
        others = "the other" if n == 2 else f"all {n - 1} others"
        return f"Take {take.label}: shown better than {others} at 5 %."
    cost = f"{take.runs[0].multiply_adds:,} multiply-adds, trained in {duration(take.seconds / 60)}"
    loss = ranking.loss(take.label)
    matters = "within" if loss <= margin else "more than"
    shown = "No winner is shown" if len(inside) < n else "No difference is shown, and no winner"
    doubt = "95 %, other seeds not counted" if ranking.found.single else "95 %"
    return (
        f"Take {take.label}: {reason} ({cost}). {shown}; it gives up at most {_at_most(loss)} "
        f"against the best ({doubt}), {matters} the margin of {margin:g}."
    )


def _set_lines(ranking: Ranking) -> list[str]:
    """Return the best set with its chances, and who is out."""
    chance = dict(zip(ranking.labels, ranking.best.chance, strict=True))
    named = ", ".join(f"{label} {percent(chance[label])}" for label in ranking.inside)
    found = [f"Best set (95 %), and the chance of each to be the best: {named}."]
    if ranking.outside:
        out = ", ".join(
            f"{one.row} ({one.difference:+.4f} to {one.to}, {p_value(one.p)})"
            for one in ranking.outside
        )
        found.append(
            f"Out, by the row that beats each most clearly, p over all rows at once: {out}."
        )
    return found


def _at_most(loss: float) -> str:
    """Return a bound that is not rounded down: `0.0018`."""
    return f"{max(math.ceil(loss * 1e4 - 1e-6), 1) / 1e4:.4f}"


def _other_words(ranking: Ranking, take: str) -> str | None:
    """Return what the row that is taken is worth in another metric."""
    if take not in ranking.labels:
        return None
    n, inside = len(ranking.labels), ranking.inside
    if take not in inside:
        out = next(one for one in ranking.outside if one.row == take)
        return (
            f"Trade-off in {ranking.header}: {take} is out, {out.difference:+.4f} to {out.to} "
            f"({p_value(out.p)} over all rows at once)."
        )
    if len(inside) == 1:
        return f"{ranking.header}: {take} is shown best there, too."
    of = f"the best set ({len(inside)} of {n})" if len(inside) < n else f"the best set (all {n})"
    return f"{ranking.header}: {take} is in {of}, giving up at most {_at_most(ranking.loss(take))}."


def _settle(
    ranking: Ranking, by_label: Mapping[str, Variant], take: str, margin: float
) -> list[Settle]:
    """Return what every open pair of the best set needs, those that may gain the most first."""
    if ranking.found.single or ranking.metric.endswith(UNMARGINED):
        return []
    place = {label: k for k, label in enumerate(ranking.labels)}
    pairs = [label for label in ranking.inside if label != take]
    tests = [ranking.found.difference(place[label], place[take]) for label in pairs]
    small = holm([equivalence(one, margin) for one in tests])
    found = []
    for label, d, p in zip(pairs, tests, small, strict=True):
        if p < 0.05:
            continue
        seeds, rows = _needs(d, margin)
        runs = (by_label[label], by_label[take])
        command, minutes = None, None
        if seeds and rows is None:
            command = command_of(runs, seeds)
            minutes = seeds / 60 * sum(_seconds(one) for one in runs)
        difference = ranking.sign * d.mean
        widths = (d.half_width, detectable(d))
        found.append(Settle((label, take), difference, *widths, seeds, rows, minutes, command))
    return sorted(found, key=lambda one: -ranking.sign * one.difference - one.half_width)


def _needs(found: Difference, margin: float) -> tuple[int | None, float | None]:
    """Return how many more seeds, and how many times the test rows, find the margin."""
    if found.error == 0:
        return 0, None
    needed = seeds_needed(found, margin)
    if needed is not None and needed <= MOST_NEEDED:
        return max(needed - found.seeds, 0), None
    for seeds in (found.seeds, *(n for n in (10, 20, 50, 100) if n > found.seeds)):
        rows = rows_factor_needed(found, margin, seeds)
        if rows is not None and rows <= MOST_ROWS:
            return seeds - found.seeds, rows
    return None, None


def _seconds(row: Variant) -> float:
    """Return the mean wall clock of a row's runs."""
    return fmean(run.seconds.get("total", 0.0) for run in row.runs)


def _settle_lines(found: Recommendation) -> list[str]:
    """Return what would settle the pairs that matter most."""
    if found.take is None or found.ranking is None or len(found.ranking.inside) == 1:
        return []
    n, open_pairs = len(found.ranking.inside) - 1, found.settle
    if not open_pairs:
        if found.ranking.found.single:
            return []
        which = "The other" if n == 1 else f"All {n} others"
        return [f"{which} of the best set: shown within {found.margin:g} of {found.take}."]
    lines = []
    for one in open_pairs[:MOST_TOLD]:
        other, take = one.pair
        so_far = f"{other} against {take}: {one.difference:+.4f} ± {one.half_width:.4f}."
        lines.append(f"{so_far} {_needs_words(one, found.margin)}")
        lines += [] if one.command is None else [one.command]
    if len(open_pairs) > MOST_TOLD:
        more = _n(len(open_pairs) - MOST_TOLD, "more open pair")
        lines.append(f"{more}: see `cvrbench report --json`.")
    return lines


def _needs_words(one: Settle, margin: float) -> str:
    if one.seeds == 0 and one.rows is None:
        return (
            f"These seeds and rows are enough to see {margin:g} four times in five; they show "
            "neither that difference nor that it is smaller."
        )
    if one.seeds:
        time = "" if one.minutes is None else f" (about {duration(one.minutes)})"
        if one.rows is None:
            end = "." if one.command is None else ":"
            return f"To settle {margin:g}: {_n(one.seeds, 'more seed')}{time}{end}"
        return (
            f"Test rows are the limit: {margin:g} takes about {one.rows:.2g} times as many, and "
            f"{_n(one.seeds, 'more seed')}."
        )
    if one.rows is None:
        found = f"differences from about {one.shows:.2g} on" if one.shows < 0.5 else "no difference"
        return f"Such seeds and test rows find {found}; {margin:g} takes far more of both."
    return f"Test rows are the limit: {margin:g} takes about {one.rows:.2g} times as many."


def command_of(rows: Sequence[Variant], seeds: int) -> str | None:
    """Return the command that runs so many more seeds of these rows; None if no record tells.

    It is the command of their runs with the rows' own values: of a list of values each row had one.
    """
    wanted: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        told = (_words_of(run) for run in row.runs)
        words = next((one for one in told if one is not None), None)
        if words is None:
            return None
        wanted.setdefault(tuple(words), []).append(row.runs[0].model)
    first = 1 + max(run.seed for row in rows for run in row.runs)
    span = f"seed={first}" if seeds == 1 else f"seed={first}..{first + seeds - 1}"
    commands = []
    for rest, models in wanted.items():
        of = [f"model={','.join(dict.fromkeys(models))}", span, *rest]
        commands.append(shlex.join(["cvrbench", "run", "-m", *of]))
    return " && ".join(commands)


def _words_of(run: RunRecord) -> list[str] | None:
    """Return the overrides of a run's command but for model and seed; None where it has none."""
    command = str(run.environment.get("command") or "").split()
    if len(command) < 2 or command[1] != "run":
        return None
    settings = {**dict(flat_settings(run.config)), **run.choices}
    found = []
    for word in command[2:]:
        key, equals, value = word.partition("=")
        if not equals or key.startswith("-") or key in ("model", "seed", *AUTO):
            continue
        if len(OUTSIDE_BRACKETS.split(value)) > 1 or ".." in value or value.startswith("range("):
            value = settings.get(key, value)
        found.append(f"{key}={value}")
    return found


def _seeds_words(rows: Sequence[Variant]) -> str:
    counts = sorted({len(row.runs) for row in rows})
    if len(counts) == 1:
        return _n(counts[0], "seed")
    return f"{counts[0]} to {counts[-1]} seeds"


def _n(n: int, thing: str) -> str:
    plural = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{n:,} {thing if n == 1 else plural}"
