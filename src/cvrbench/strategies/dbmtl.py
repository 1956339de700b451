"""DBMTL: a network over the tasks' relations (Wang et al., 2019, arXiv 1902.09154).

    h_t = g_t( f( e(x) ) )                                a trunk f, a tower g_t per task
    r_t = MLP_t( [h_t ; r_s for every ancestor s of t] )
    logit_t = w_t r_t + b_t

The tasks' chain in the schema is the Bayesian network: a conversion is explained by its click.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cvrbench.config.model import DBMTLConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output, ParallelMLP, Towers, select_networks
from cvrbench.strategies.base import SharingStrategy


class DBMTL(SharingStrategy):
    """A shared trunk, and towers that read those of the tasks above them."""

    stackable = True

    def __init__(
        self,
        config: DBMTLConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        n_tasks, dropout = len(schema.tasks), config.dropout
        self.ancestors = [schema.chain(t)[:-1] for t in range(n_tasks)]
        self.encoder = encoder
        self.trunk = ParallelMLP(1, encoder.width, config.hidden, dropout=dropout)
        self.own = ParallelMLP(n_tasks, self.trunk.n_out, config.tower, dropout=dropout)
        out = config.relation[-1]
        self.relations = nn.ModuleList(
            ParallelMLP(1, self.own.n_out + out * len(above), config.relation, dropout=dropout)
            for above in self.ancestors
        )
        self.heads = Towers(n_tasks, out, (), dropout=0.0, heads=heads)

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        encoded = self.encoder(features)  # [batch, width]
        trunk = self.trunk(encoded)  # [1, batch, out], or without a trunk [batch, width]
        own = self.own(trunk.flatten(end_dim=-2))
        own = own.expand(len(self.ancestors), -1, -1)  # [tasks, batch, tower]
        related: list[Tensor] = []
        for task, above in enumerate(self.ancestors):
            reads = torch.cat([own[task], *(related[s] for s in above)], dim=-1)
            related.append(self.relations[task](reads)[0])  # an ancestor comes first
        # Heads are those of the last tasks, of one alone in a copy for a single task.
        output: Output = self.heads(torch.stack(related[-len(self.heads.bias) :]))
        return output._replace(shared=(trunk,))

    def only(self, task: int) -> "DBMTL":
        """Return a copy without the tasks that are no ancestors, and without their heads."""
        own, chain = copy.deepcopy(self), [*self.ancestors[task], task]
        own.ancestors = [tuple(range(k)) for k in range(len(chain))]
        own.relations = nn.ModuleList(own.relations[t] for t in chain)
        select_networks(own.own, chain)
        select_networks(own.heads, [task])
        return own
