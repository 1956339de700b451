"""Interactions (group `interaction=`): what happens between the look-up and the trunk.

One module or class and one dataclass (`config.interaction`) each, one `case` here.
"""

from typing import assert_never

from cvrbench.config.interaction import InteractionConfig, NoInteractionConfig
from cvrbench.data.schema import Schema
from cvrbench.nn.embedding import FeatureEncoder


def build_encoder(
    config: InteractionConfig, schema: Schema, embedding_dim: int, *, copies: int = 1
) -> FeatureEncoder:
    """Build the look-up and interaction that a strategy reads features through.

    Args:
        config: Of the interaction.
        schema: Of the dataset.
        embedding_dim: Numbers per id.
        copies: Tables, and interactions, of their own that lie beside each other.
    """
    match config:
        case NoInteractionConfig():
            interaction = None
        case _:
            assert_never(config)
    return FeatureEncoder(schema, embedding_dim, copies=copies, interaction=interaction)
