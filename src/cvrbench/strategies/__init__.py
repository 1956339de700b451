"""Sharing strategies: which weights the tasks share. One module each, one `case` here."""

from collections.abc import Sequence
from typing import assert_never

from cvrbench.config.model import (
    AdaTTConfig,
    AITMConfig,
    CrossStitchConfig,
    DBMTLConfig,
    DSelectKConfig,
    MMoEConfig,
    ModelConfig,
    MSSMConfig,
    PEPNetConfig,
    PLEConfig,
    ResFlowConfig,
    SharedBottomConfig,
    SharedEmbeddingConfig,
    SingleTaskConfig,
    SNRConfig,
    STEMConfig,
)
from cvrbench.config.ncs import NCSConfig
from cvrbench.config.schema import Config, InteractionConfig, NoInteractionConfig
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder
from cvrbench.nn.interactions import build_encoder
from cvrbench.objectives import build_objective
from cvrbench.strategies.adatt import AdaTT
from cvrbench.strategies.aitm import AITM
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.cross_stitch import CrossStitch
from cvrbench.strategies.dbmtl import DBMTL
from cvrbench.strategies.dselect_k import DSelectK
from cvrbench.strategies.mmoe import MMoE
from cvrbench.strategies.mssm import MSSM
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ncs.searches import build_search
from cvrbench.strategies.pepnet import PEPNet
from cvrbench.strategies.ple import PLE
from cvrbench.strategies.resflow import ResFlow
from cvrbench.strategies.shared_bottom import SharedBottom
from cvrbench.strategies.shared_embedding import SharedEmbedding
from cvrbench.strategies.single_task import SingleTask
from cvrbench.strategies.snr import SNRTrans
from cvrbench.strategies.stem import STEM

NO_INTERACTION = NoInteractionConfig(kind="none")


def build_network(config: Config, schema: Schema) -> SharingStrategy:
    """Build the network of a run: strategy, interaction, and heads for the objective."""
    heads = build_objective(config.objective, schema).heads
    return build_strategy(config.model, schema, interaction=config.interaction, heads=heads)


def build_strategy(
    config: ModelConfig,
    schema: Schema,
    *,
    interaction: InteractionConfig = NO_INTERACTION,
    heads: Sequence[str] = (),
) -> SharingStrategy:
    """Build a strategy's network, freshly initialised from torch's global generator.

    Args:
        config: Of the strategy.
        schema: Of the dataset.
        interaction: What happens between the look-up and the strategy.
        heads: Extra heads per task, for the objective (`Objective.heads`).
    """

    def encoder(copies: int = 1) -> FeatureEncoder:
        return build_encoder(interaction, schema, config.embedding_dim, copies=copies)

    match config:
        case SingleTaskConfig():
            return SingleTask(config, schema, encoder(len(schema.tasks)), heads)
        case SharedEmbeddingConfig():
            return SharedEmbedding(config, schema, encoder(), heads)
        case SharedBottomConfig():
            return SharedBottom(config, schema, encoder(), heads)
        case MMoEConfig():
            return MMoE(config, schema, encoder(), heads)
        case PLEConfig():
            return PLE(config, schema, encoder(), heads)
        case AITMConfig():
            return AITM(config, schema, encoder(), heads)
        case CrossStitchConfig():
            return CrossStitch(config, schema, encoder(), heads)
        case AdaTTConfig():
            return AdaTT(config, schema, encoder(), heads)
        case ResFlowConfig():
            return ResFlow(config, schema, encoder(), heads)
        case DBMTLConfig():
            return DBMTL(config, schema, encoder(), heads)
        case STEMConfig():
            return STEM(config, schema, encoder(len(schema.tasks) + 1), heads)
        case SNRConfig():
            return SNRTrans(config, schema, encoder(), heads)
        case MSSMConfig():
            return MSSM(config, schema, encoder(), heads)
        case PEPNetConfig():
            return PEPNet(config, schema, encoder(), heads)
        case DSelectKConfig():
            return DSelectK(config, schema, encoder(), heads)
        case NCSConfig():
            return NCS(config, schema, encoder(), heads, build_search(config))
        case _:
            assert_never(config)
