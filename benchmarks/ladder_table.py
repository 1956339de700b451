"""The ablation ladder of finished runs as Markdown: values, gains over several baselines, cost.

    cvrbench run experiment=ncs_ablation dataset=kuairand
    python -m benchmarks.ladder_table results --metric cvr_auc --against shared_embedding \
        "ncs search=random"

One table per dataset. A gain is the mean over the seeds in common, with its 95 % interval over
seeds and redrawn test rows and its p after Holm over the column, as `cvrbench report` has it; bold
where p is below 0.05. Cost: examples that gradients were computed on, searches included, as a
multiple of shared_bottom's.
"""

import argparse
from pathlib import Path
from statistics import mean

from cvrbench.report.comparison import Comparison, Variant, compare
from cvrbench.report.differences import Differences, against
from cvrbench.report.grids import verdict
from cvrbench.report.tables import interval
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--metric", help="default: the last task's AUC")
    parser.add_argument("--against", nargs="*", default=["shared_embedding", "ncs search=random"])
    options = parser.parse_args()
    store = ResultStore(options.results)
    for comparison in compare(store.records()):
        labels = {variant.label for variant in comparison.variants}
        found = against(comparison, [row for row in options.against if row in labels], store)
        metric = options.metric or f"{comparison.tasks[-1].name}_auc"
        print(f"\n### {comparison.dataset}\n\n{table(comparison, metric, found)}")


def table(comparison: Comparison, metric: str, found: dict[str, Differences]) -> str:
    """Give a row per variant."""
    first = f"{comparison.tasks[0].name}_auc"
    heads = ["strategy", "seeds", comparison.header(first), comparison.header(metric)]
    heads += [f"{metric}: gain over {row.removeprefix('ncs search=')}" for row in found] + ["cost"]
    base = {r.seed: r for v in comparison.variants if v.label == "shared_bottom" for r in v.runs}
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for variant in comparison.variants:
        values = [interval(variant.estimate(name)) for name in (first, metric)]
        gains = [_gain(differences, metric, variant) for differences in found.values()]
        cells = [_label(variant), str(len(variant.runs)), *values, *gains, _cost(variant, base)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _label(variant: Variant) -> str:
    label = variant.label.removeprefix("ncs search=")
    return f"`{label}`" if label == variant.label else f"ncs `{label}`"


def _gain(found: Differences, metric: str, variant: Variant) -> str:
    cell = verdict(found.of(metric, variant.label), found.margin)
    return f"**{cell.text}**" if cell.strong else cell.text


def _cost(variant: Variant, base: dict[int, RunRecord]) -> str:
    pairs = [(run, base[run.seed]) for run in variant.runs if run.seed in base]
    ratios = [sum(a.examples.values()) / sum(b.examples.values()) for a, b in pairs]
    return f"{mean(ratios):.1f}" if ratios else "-"


if __name__ == "__main__":
    main()
