"""Is a difference too small to matter? Two one-sided tests."""

from cvrbench.stats import mixture
from cvrbench.stats.difference import Difference


def equivalence(difference: Difference, margin: float) -> float:
    """One-sided p of "the difference is not within +-margin": the larger of two tests'.

    Schuirmann (Journal of Pharmacokinetics and Biopharmaceutics 1987): one test against a true
    difference of -margin or less, one against +margin or more, each at the full level, with the
    difference's own law (`mixture`), which is symmetric. Below 5 per cent is the same as its
    90 % interval lying inside the margin. A p above it shows no difference either: the seeds and
    rows at hand may simply tell too little.

    Args:
        difference: A mean difference with its doubts.
        margin: Above 0, in the units of the mean; chosen before looking.

    Raises:
        ValueError: The margin is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"a margin of {margin} holds no difference; it must be above 0")
    room = margin - abs(difference.mean)
    if difference.error == 0:
        return 0.0 if room > 0 else 1.0
    half = 0.5 * mixture.two_sided(
        abs(room),
        estimated=difference.of_seeds / difference.seeds,
        freedom=difference.seeds - 1,
        known=difference.of_rows,
    )
    return half if room >= 0 else 1 - half
