"""Sharing strategies: which weights the tasks share. One module each, one `case` here."""

from typing import assert_never

from cvrbench.config.model import (
    MMoEConfig,
    ModelConfig,
    PLEConfig,
    SharedBottomConfig,
    SharedEmbeddingConfig,
    SingleTaskConfig,
)
from cvrbench.config.ncs import NCSConfig
from cvrbench.data.schema import Schema
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.mmoe import MMoE
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ple import PLE
from cvrbench.strategies.searches import build_search
from cvrbench.strategies.shared_bottom import SharedBottom
from cvrbench.strategies.shared_embedding import SharedEmbedding
from cvrbench.strategies.single_task import SingleTask


def build_strategy(config: ModelConfig, schema: Schema) -> SharingStrategy:
    """Build a strategy's network, freshly initialised from torch's global generator."""
    d, hidden, tower = config.embedding_dim, config.hidden, config.tower
    dropout = config.dropout
    match config:
        case SingleTaskConfig():
            return SingleTask(schema, embedding_dim=d, hidden=hidden, tower=tower, dropout=dropout)
        case SharedEmbeddingConfig():
            return SharedEmbedding(
                schema, embedding_dim=d, hidden=hidden, tower=tower, dropout=dropout
            )
        case SharedBottomConfig():
            return SharedBottom(
                schema, embedding_dim=d, hidden=hidden, tower=tower, dropout=dropout
            )
        case MMoEConfig():
            return MMoE(
                schema,
                embedding_dim=d,
                n_experts=config.n_experts,
                n_gates=1 if config.gate == "common" else len(schema.tasks),
                hidden=hidden,
                tower=tower,
                dropout=dropout,
            )
        case PLEConfig():
            return PLE(
                schema,
                embedding_dim=d,
                levels=config.levels,
                n_shared_experts=config.n_shared_experts,
                n_specific_experts=config.n_specific_experts,
                hidden=hidden,
                tower=tower,
                dropout=dropout,
            )
        case NCSConfig():
            return NCS(
                schema,
                embedding_dim=d,
                hidden=hidden,
                tower=tower,
                dropout=dropout,
                masked=config.masked,
                step=config.step,
                masked_step=config.masked_step,
                search=build_search(config),
            )
        case _:
            assert_never(config)
