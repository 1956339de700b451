"""What was tuned, what that cost, and what was found."""

from collections.abc import Sequence

from cvrbench.report.page.figures import swept_figures
from cvrbench.report.page.markup import Html, code, facts, fold, join, paragraph, table, tag, text
from cvrbench.report.page.warnings import budget_words
from cvrbench.report.studies import budgets_grid, trials_grid
from cvrbench.studies import StudySummary


def sweeps_section(summaries: Sequence[StudySummary]) -> Html:
    """Give the budgets of all sweeps, then each sweep with its figures and trials."""
    return tag(
        "section",
        tag("h2", text("Sweeps")),
        table(budgets_grid(summaries), "sweeps-budgets"),
        *(_sweep(summary, f"sweep-{n}") for n, summary in enumerate(summaries, 1)),
        id="sweeps",
    )


def _sweep(summary: StudySummary, ident: str) -> Html:
    trials = len(summary.trials)
    return tag(
        "section",
        tag("h3", text(summary.name)),
        facts(
            {
                "what": f"{summary.model} on {summary.dataset} ({summary.fingerprint[:6]}), "
                f"sweep={summary.sweep}",
                "searched for": ", ".join(
                    f"{name} ({direction})"
                    for name, direction in zip(summary.objectives, summary.directions, strict=True)
                ),
                "how": f"{summary.sampler}, pruned by {summary.pruner}",
                "budget": budget_words(summary),
                "tuning seeds": ", ".join(map(str, summary.seeds)),
            }.items()
        ),
        *_chosen(summary),
        *swept_figures(summary, ident),
        fold(
            f"All {trials} trials" if trials != 1 else "The only trial",
            table(trials_grid(summary), f"{ident}-trials"),
        ),
        id=ident,
    )


def _chosen(summary: StudySummary) -> list[Html]:
    """Give the best configuration, retrained or so far."""
    if summary.chosen is not None:
        words = "Chosen, trained anew and tested:"
        overrides = [str(word) for word in summary.chosen.get("overrides", [])]
    else:
        words, overrides = "The best so far, not trained anew yet:", summary.best_words()
    if not overrides:
        return [paragraph("No trial is complete.")]
    return [join([paragraph(words), code("cvrbench run " + " ".join(overrides))])]
