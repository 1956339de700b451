"""Do mask searches find the sub-networks that are there? Scored on logs where they are known.

    python -m benchmarks.mask_recovery [--seeds 3] [--settings NAME ...] [--searches NAME ...]
                                       [--out FILE.jsonl]

Truths (`benchmarks.planted_masks`; a fresh truth, log and network per seed):

    aligned            labels come from the student's own first weights under known masks M*_t of
                       density 0.2, whose tasks overlap by a Jaccard similarity J of 0, 0.5 or 1.
                       One hidden layer of 24 and the teacher's heads given: the masked, untrained
                       student is the truth. Harder: fresh heads; and two layers of 24 and 12.
    relevant inputs    an unrelated dense teacher, of which each task reads 14 of 32 inputs: 8
                       common, 6 of its own; 12 are noise.

Every search runs through the engine: a configuration composed as on the command line, the log
prepared as `dataset=table`, `TrainingSession`, all tasks trained together under the found masks at
the end.
Searches cut to the true density and train 16 epochs in all, `imp` in 4 rounds of 4, unless a name
says otherwise. `oracle` is given the truth (behind relevant inputs a random choice of that
density); `random` and `identical` are chance.

What is printed, mean ± standard error over seeds (`benchmarks.mask_scores` defines it): the
precision of the masks, whether connections used by both tasks are told from private ones
(`sharing`) and the tasks from each other (`own`), the found overlap, and the validation AUC of the
tasks trained together under the masks, beside that of the true probabilities.

`--out` keeps one line per measured cell; cells that it holds already are not measured again, so
that several processes can share the work, about half an hour of one idle core. The masks of
`random` depend on the seed alone, so that their luck is the same in all aligned settings of one
layer: one draw's precision has a deviation of 0.025 there.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks import mask_scores
from benchmarks.mask_scores import Scores
from benchmarks.planted_masks import (
    N_COMMON,
    N_PRIVATE,
    Planted,
    Size,
    aligned_teacher,
    relevant_inputs,
)

from cvrbench.config.compose import compose
from cvrbench.config.ncs import Untrained, readers, search_kinds
from cvrbench.masks.mask_set import MaskSet
from cvrbench.masks.ranking import keep_best, random_scores
from cvrbench.objectives import build_objective
from cvrbench.strategies.base import PretrainContext
from cvrbench.strategies.ncs import NCS, SearchResult
from cvrbench.system.rng import derive
from cvrbench.training.device import torch_settings
from cvrbench.training.session import TrainingSession

Row = dict[str, Any]
ALIGNED = ("precision", "sharing", "own", "jaccard")
LAYERS = ("precision_trunk_0", "precision_trunk_1")
BEHIND_INPUTS = ("share", "inputs", "own", "jaccard")
GIVEN = Size(n_inputs=24, hidden=(24,), known_heads=True)
DEEP = replace(GIVEN, n_inputs=16, hidden=(24, 12))


class Setting(NamedTuple):
    """A planted truth, and the scores that say how well it was found."""

    plant: Callable[..., Planted]
    size: Size
    columns: tuple[str, ...]


def _aligned(jaccard: float, size: Size, *more: str) -> Setting:
    return Setting(partial(aligned_teacher, jaccard=jaccard), size, ALIGNED + more)


SETTINGS = {
    "aligned, J 0.5": _aligned(0.5, GIVEN),
    "aligned, J 0": _aligned(0.0, GIVEN),
    "aligned, J 1": _aligned(1.0, GIVEN),
    "aligned, J 0.5, fresh heads": _aligned(0.5, replace(GIVEN, known_heads=False)),
    "aligned, J 0.5, two layers": _aligned(0.5, DEEP, *LAYERS),
    "aligned, J 0.5, two layers, fresh heads": _aligned(
        0.5, replace(DEEP, known_heads=False), *LAYERS
    ),
    "relevant inputs": Setting(relevant_inputs, Size(hidden=(32, 16)), BEHIND_INPUTS),
}

SEARCHES: dict[str, tuple[str, ...]] = {
    "oracle": (),
    "dense": ("search=dense",),
    "random": ("search=random",),
    "identical": ("search=identical",),
    "snip": ("search=snip",),
    "grasp": ("search=grasp",),
    "synflow": ("search=synflow",),
    "gradient_conflict": ("search=gradient_conflict",),
    "one_shot": ("search=one_shot",),
    "imp": ("search=imp",),
    "imp, tasks alone": ("search=imp", "together=false"),
    "imp, late rewinding": ("search=imp", "warmup_epochs=1"),
    "imp, threshold per layer": ("search=imp", "scope=layer"),
    "imp, 4 x 0.5 epochs": ("search=imp", "search.epochs=2"),
    "imp, 4 x 16 epochs": ("search=imp", "search.epochs=64"),
    "learned": ("search=learned", "relaxation=hard_concrete"),
    "learned, straight through": ("search=learned", "relaxation=straight_through"),
    "set": ("search=set",),
    "rigl": ("search=rigl",),
}
"""Name -> overrides of `model`, which win over `COMMON`, of which a search takes what it reads."""

COMMON = (
    "model.search.epochs=16",
    "model.gate_rate=50",
    "model.regrow_every=50",
    "model.early_bird=null",  # on a small log a mask rests between two looks before it is learned
    "trainer.learning_rate=0.01",
    "trainer.evaluations_per_epoch=1",
    "trainer.epochs=10",
    "trainer.patience=4",
)


def measure(planted: Planted, search: str, overrides: Sequence[str] = COMMON) -> Row:
    """Search, train jointly under what was found, and score both."""
    asked = [*overrides, *(f"model.{override}" for override in SEARCHES[search])]
    last = {override.split("=")[0]: override for override in [*planted.overrides, *asked]}
    kind = last.get("model.search", "=gradient_conflict").partition("=")[2]
    read = [text for key, text in last.items() if kind in readers(key) or not readers(key)]
    if issubclass(search_kinds()[kind], Untrained):  # nothing is chosen, so nothing is trained
        read = [text for text in read if not text.startswith("model.search.epochs=")]
    config = compose(read).config
    clock = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        torch_settings(config.trainer, torch.device("cpu")),
    ):
        network = planted.student(config)
        if search == "oracle":
            network.search = partial(_oracle, planted=planted)
        stages = TrainingSession(
            config=config,
            dataset=planted.dataset,
            objective=build_objective(config.objective, planted.dataset.schema),
            device=torch.device("cpu"),
            checkpoints=Path(folder),
            on_progress=lambda _: None,
            stop_requested=lambda: False,
        )
        network.prepare(stages)
        aucs = stages.finish(network).scores
    row: Row = {"search": search, "seed": planted.seed, **_scores(network.masks, planted)}
    row |= {f"{task}_auc": aucs[task] for task in network.tasks}
    row |= {f"{task}_best": best for task, best in planted.best_auc.items()}
    return row | {"seconds": round(time.monotonic() - clock, 1)}


def _oracle(ncs: NCS, context: PretrainContext, *, planted: Planted) -> SearchResult:
    """The truth at its density, or a random choice from a denser truth."""
    scores = random_scores(ncs.masks, derive(context.seed, "oracle"), identical=True)
    return SearchResult(masks=keep_best(scores, planted.truth, planted.size.density, "layer"))


def _scores(found: MaskSet, planted: Planted) -> Scores:
    if bool(found.flat().all()):
        return {}  # `dense` keeps everything: it neither finds nor misses anything
    if planted.is_aligned:
        return mask_scores.connections(found, planted.truth)
    return mask_scores.inputs(found, planted.relevant)


def chance(setting: Setting) -> Scores:
    """Scores that masks drawn at random are expected to have."""
    density = setting.size.density
    expected = dict.fromkeys(("precision", *LAYERS), density)
    expected |= dict.fromkeys(("sharing", "own", "inputs"), 0.5)
    expected |= {"share": (N_COMMON + N_PRIVATE) / setting.size.n_inputs}
    expected |= {"jaccard": density / (2 - density)}
    return {column: expected[column] for column in setting.columns}


def table(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """Give a setting's Markdown table, line by line."""
    setting = SETTINGS[name]
    columns = (*setting.columns, "ctr_auc", "cvr_auc")
    bests = [_cell([row[f"{task}_best"] for row in rows]) for task in ("ctr", "cvr")]
    random = [f"{value:.3f}" for value in chance(setting).values()]
    yield from (f"### {name}", "", f"| search | {' | '.join(columns)} |")
    yield "|---" * (len(columns) + 1) + "|"
    yield f"| *chance; best AUC* | {' | '.join(random + bests)} |"
    for search in SEARCHES:
        if mine := [row for row in rows if row["search"] == search]:
            cells = [_cell([row.get(column) for row in mine]) for column in columns]
            yield f"| {search} | {' | '.join(cells)} |"
    yield ""


def _cell(values: Sequence[float | None]) -> str:
    """Mean ± standard error, as far as there are values."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = f"{statistics.mean(known):.3f}"
    if len(known) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(known) / len(known) ** 0.5:.3f}"


def main() -> None:
    """Measure every cell that is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--out", type=Path, help="keep measured cells there, and read them again")
    options = parser.parse_args()

    lines = options.out.read_text().splitlines() if options.out and options.out.exists() else []
    rows: list[Row] = [json.loads(line) for line in lines]
    cells = {(row["setting"], row["seed"], row["search"]) for row in rows}
    for seed in range(options.seeds):
        for name in options.settings:
            wanted = [search for search in options.searches if (name, seed, search) not in cells]
            for row in _measured(name, seed, wanted):
                rows.append(row)
                if options.out:
                    with options.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    for name in options.settings:
        print("\n".join(table(name, [row for row in rows if row["setting"] == name])))


def _measured(name: str, seed: int, searches: Sequence[str]) -> Iterator[Row]:
    if not searches:
        return
    setting = SETTINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        planted = setting.plant(Path(folder), seed=seed, size=setting.size)
        for search in searches:
            yield {"setting": name, **measure(planted, search)}


if __name__ == "__main__":
    main()
