"""CVR objectives for all exposures, of which only the clicked ones show whether they convert.

    L_ctr = mean over exposures of BCE(y, s(a))
    L_cvr = lambda_c D + lambda_g mean over exposures of BCE(y z, s(a) s(b))

D differs; with q = s(b), the propensity p = sg(max(s(a), floor)) of a click, whose gradient sg
stops, D is a mean over all exposures:

    escm2_ipw   y BCE(z, q) / p                                             Wang et al., SIGIR 2022
    escm2_dr    e + y (BCE(z, q) - e) / p                                   the same
                + lambda_i y (sg(BCE(z, q)) - e')^2 / p
    dcmt        y BCE(z, q) / p + (1 - y) BCE(1, q*) / (1 - p)              Zhu et al., ICDE 2023
                + lambda_tie |1 - q - q*|
    nise        y BCE(z, q) + (1 - y) lambda_u BCE(q, q)                   Huang et al., RecSys 2024

e = BCE(sg(v), q) and e' = BCE(v, sg(q)) with an imputed label v, q* and v being heads of their own.

The first term of IPW is unbiased for the mean of BCE(z, q) over all exposures if clicks follow from
the features and p is right; that of DR if p is right or v is (Wang et al., ICML 2019, the joint
learning of which imputes a label so). `self_normalised` divides by the sum of the weights y / p,
not by the rows: a little bias for a lower variance (Swaminathan and Joachims, NeurIPS 2015).

Differs from ESCM2-DR as published, whose e is the output of a head: that has no gradient in q, so
that the CVR logit is given IPW's gradient and nothing else, and rows without a click teach it
nothing. NISE is as published: its pseudo-label q is not stopped. Were it, BCE(sg(q), q) would have
a gradient of 0; as it is, BCE(q, q) is the entropy of q, whose gradient pushes every q below 1/2
down, and below 0.2 harder than the label 0 would: by q (1 - q) log((1 - q) / q) against q.

Where `click_space` divides by the clicked rows, D divides by all: since 1 / p is about their ratio,
IPW, DR and DCMT weigh CVR about as `click_space` does, times lambda_c; NISE and CTCVR by the click
rate. A task deeper in a chain takes P(all ancestors' labels are 1). A hidden label leaves its row
out of the means; a row that was not clicked stays. A ratio z is a soft label of IPW and DR; DCMT
and NISE are of probabilities alone.
"""

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

from cvrbench.config.schema import (
    DCMTConfig,
    DebiasedConfig,
    ESCM2DRConfig,
    ESCM2IPWConfig,
    NISEConfig,
)
from cvrbench.data.batches import Batch
from cvrbench.data.schema import Schema
from cvrbench.nn import Output
from cvrbench.objectives.base import Objective, binary_cross_entropy, mean_over_rows
from cvrbench.objectives.click_space import ClickSpace


class Rows(NamedTuple):
    """What the losses of conversions are made of, `[..., batch, tasks]` each."""

    own: Tensor
    """BCE(label, conditional probability)."""
    clicked: Tensor
    """1 where all ancestors' labels are 1."""
    propensity: Tensor
    """Probability of that, without a gradient."""
    weights: Tensor | None
    """0 where a label is hidden; None: all alike."""

    def mean(self, loss: Tensor) -> Tensor:
        """Return the mean over the rows whose label is seen, `[..., tasks]`."""
        return mean_over_rows(loss, self.weights)


class Debiased(Objective):
    """A loss of conversions for all exposures, with the entire-space loss beside it."""

    only_products: ClassVar[bool] = True

    def __init__(self, config: DebiasedConfig, schema: Schema) -> None:
        super().__init__(schema, config.losses)
        self.schema, self.given = schema, config.losses
        self.lambda_c, self.lambda_g = config.lambda_c, config.lambda_g

    def losses(self, output: Output, batch: Batch) -> Tensor:
        """Return each task's mean loss, `[..., tasks]`."""
        logits, labels = output.logits, batch.labels
        own = self.of_rows(logits, labels)
        rows = Rows(own, self.observed(labels), self.propensities(logits), batch.weights)
        entire = mean_over_rows(self.joint_cross_entropy(logits, labels), batch.weights)
        combined = self.lambda_c * self.debiased(rows, output) + self.lambda_g * entire
        return self.where_root(mean_over_rows(own, batch.weights), combined)

    @abstractmethod
    def debiased(self, rows: Rows, output: Output) -> Tensor:
        """Return D, `[..., tasks]`; tasks without a parent do not count."""

    def propensities(self, logits: Tensor) -> Tensor:
        """Return P(all ancestors' labels are 1), `[..., batch, tasks]`; no gradient."""
        joint = self.log_joint(logits.detach()).exp()
        columns = [
            torch.ones_like(joint[..., task]) if parent is None else joint[..., parent]
            for task, parent in enumerate(self.parents)
        ]
        return torch.stack(columns, dim=-1)

    def per_task(self) -> Objective:
        """Return `click_space`: the propensity is another task's prediction."""
        return ClickSpace(self.schema, self.given)


class ESCM2IPW(Debiased):
    """Clicked rows by their inverse propensity."""

    def __init__(self, config: ESCM2IPWConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.floor, self.self_normalised = config.floor, config.self_normalised

    def debiased(self, rows: Rows, output: Output) -> Tensor:
        """Return the weighted mean."""
        del output
        inverse = rows.clicked / rows.propensity.clamp_min(self.floor)
        weighted = rows.mean(inverse * rows.own)
        if not self.self_normalised:
            return weighted
        sums = rows.mean(inverse)
        return weighted / sums.clamp_min(torch.finfo(sums.dtype).tiny)


class ESCM2DR(Debiased):
    """An imputed loss on all rows, and on clicked ones what it misses by inverse propensity."""

    heads = ("imputation",)

    def __init__(self, config: ESCM2DRConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.floor, self.lambda_i = config.floor, config.lambda_i

    def debiased(self, rows: Rows, output: Output) -> Tensor:
        """Return the doubly robust mean, and the imputation's own loss."""
        label = output.extra["imputation"].sigmoid()
        imputed = binary_cross_entropy(output.logits, label.detach())
        learned = binary_cross_entropy(output.logits.detach(), label)
        inverse = rows.clicked / rows.propensity.clamp_min(self.floor)
        own = inverse * (rows.own.detach() - learned).square()
        return rows.mean(imputed + inverse * (rows.own - imputed) + self.lambda_i * own)


class DCMT(Debiased):
    """Clicked rows by 1 / p, unclicked ones by 1 / (1 - p) under a head that predicts 1 - q."""

    heads = ("counterfactual",)
    only_binary: ClassVar[str | None] = "predicts that a row does not convert, by a head of its own"

    def __init__(self, config: DCMTConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.floor, self.lambda_tie = config.floor, config.lambda_tie

    def debiased(self, rows: Rows, output: Output) -> Tensor:
        """Return the mean over both kinds of rows, and what ties the two heads."""
        other = output.extra["counterfactual"]
        p = rows.propensity
        factual = rows.clicked / p.clamp_min(self.floor) * rows.own
        counter = (1 - rows.clicked) / (1 - p).clamp_min(self.floor) * F.softplus(-other)
        tie = (1 - output.logits.sigmoid() - other.sigmoid()).abs()
        return rows.mean(factual + counter + self.lambda_tie * tie)


class NISE(Debiased):
    """Clicked rows as they are; unclicked ones labelled by the prediction, with its gradient."""

    only_binary: ClassVar[str | None] = "labels unclicked rows by the entropy of a probability"

    def __init__(self, config: NISEConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.lambda_u = config.lambda_u

    def debiased(self, rows: Rows, output: Output) -> Tensor:
        """Return the mean of both kinds of rows."""
        entropy = binary_cross_entropy(output.logits, output.logits.sigmoid())
        unclicked = self.lambda_u * (1 - rows.clicked)
        return rows.mean(rows.clicked * rows.own + unclicked * entropy)
