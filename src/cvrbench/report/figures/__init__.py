"""Figures, and how to read each in one sentence; only this package loads matplotlib."""

from typing import Any

COMPARED = {
    "comparison": (
        "AUC of every strategy in every space",
        "Each panel is one population: look first at how wide the bars are, then at whether the "
        "means lie further apart than that; the tables, not this picture, test the differences.",
    ),
    "forest": (
        "Differences to the baseline",
        "Only filled marks are differences that hold after the adjustment, and only squares are "
        "shown to lie within the grey margin; an open circle on zero shows neither, however much "
        "it looks like no difference.",
    ),
    "transfer": (
        "Gain over the tasks alone",
        "Right of zero a task profits from being trained with the others, left of it it would be "
        "better off alone; only filled marks are gains or losses that hold after the adjustment.",
    ),
    "seesaw": (
        "One task against another",
        "Up and to the right of the lines both tasks gain on being trained alone, up and to the "
        "left one pays for the other; strategies whose crosses overlap may still differ, since "
        "they were tested on the same rows, and the tables say which do.",
    ),
    "cost": (
        "What an AUC costs",
        "Nothing is gained by moving right at the same height; examples count what one run "
        "computes, searches included, but not the tuning that chose its settings, and "
        "multiply-adds are those of dense masked layers, which sparse hardware might save.",
    ),
    "density": (
        "AUC against the density of the masks",
        "A masked strategy has lost nothing where it stands at the height of the lines; compare "
        "masks that were searched for with random ones of the same density before crediting "
        "the search.",
    ),
    "learning": (
        "Validation over the last training",
        "Look whether the marks lie at the end of the lines, where more epochs might have helped; "
        "the value at a mark was chosen as the best of many, and so flatters what it is worth on "
        "other rows.",
    ),
    "balancing": (
        "What balancing made of the tasks",
        "A weight is relative to the 1 that each task has under `equal`; gradients of unrelated "
        "directions are in conflict in half of the steps, so only a share clear of that tells "
        "something, and a method whose weights stay at 1 did nothing.",
    ),
    "calibration": (
        "Predicted rates against observed ones",
        "Below the diagonal a strategy promises more than happens, above it less; near the ends "
        "and where positives are few a bin wanders by chance, and a bin without positives lies on "
        "the lower edge of a logarithmic panel.",
    ),
    "masks": (
        "What the masks keep and share",
        "Tasks share on purpose where overlap stands clear of the marks for chance, since masks "
        "that keep much overlap anyway.",
    ),
    "gradients": (
        "Agreement of the tasks' gradients",
        "Below zero the tasks pull a layer's weights apart, above it together; where the grey "
        "line of noise is near zero, a value near zero tells nothing.",
    ),
    "gates": (
        "What the gates mix",
        "Gates with the same loads and an entropy near 1 treat all experts alike and have not "
        "specialised; low entropy means that each row takes few experts.",
    ),
}
"""Kind of a figure of a dataset -> what it shows, and how to read it."""

ACROSS = {
    "ranks": (
        "Ranks over datasets",
        "Further right is better on average, and strategies that a bar joins are not told apart; "
        "ranks forget how large a difference was, and over few datasets almost everything is "
        "joined.",
    ),
    "scarcity": (
        "Fewer labels to learn from",
        "Where the lines on the right rise to the left, sharing is worth more the scarcer the "
        "labels are; every seed keeps other labels, so that wide bands at the left are their luck, "
        "and a line that falls below zero there pays for sharing.",
    ),
}
"""Kind of a figure of several comparisons -> what it shows, and how to read it."""

SWEPT = {
    "history": (
        "Every trial and the best so far",
        "Where the line of the best has been flat for long, more trials of this sampler in this "
        "space would hardly have helped.",
    ),
    "curves": (
        "Every trial over its training",
        "Crosses end pruned trials; where curves still change places after them, pruning was "
        "hasty.",
    ),
    "importances": (
        "How much each parameter decides",
        "The longer the bar, the more this parameter separates good trials from bad ones, within "
        "the space that was searched.",
    ),
    "slices": (
        "The objective over each parameter",
        "A best trial (star) at the edge of its panel says that the space was too narrow there.",
    ),
    "contour": (
        "The objective over the two most important numbers",
        "Trust the colour near dots only, and remember that all other parameters change from dot "
        "to dot.",
    ),
    "parallel": (
        "All parameters of every trial",
        "Follow the dark lines, the good trials: where they meet, they agree on a value; `None` "
        "marks a parameter that a trial does not have.",
    ),
    "front": (
        "Objectives against each other",
        "None of the best trials can be bettered in one objective without a loss in the other.",
    ),
    "density": (
        "The objective over the density of the masks",
        "Trials differ in their other parameters too: what is smaller than the scatter of the "
        "dots, the small ones of single seeds included, tells nothing of density.",
    ),
}
"""Kind of a figure of a sweep -> what it shows, and how to read it."""


def caption(words: tuple[str, str], figure: Any) -> str:
    """Return what a figure shows, of which runs, and how to read it."""
    return f"{words[0]}: {figure.get_label()}. {words[1]}"
