"""The schema of a run's configuration: a frozen dataclass per option, a range on every value.

No field has a default: a change of Python can never silently alter what an old config means. The
groups `dataset=` and `model=` have modules of their own.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field

from cvrbench.config.dataset import DatasetConfig
from cvrbench.config.model import ModelConfig, SingleTaskConfig
from cvrbench.config.ncs import NCSConfig
from cvrbench.config.types import Count, Layers, Options, Seed, Text, Threads

PASSWORD = re.compile(r"://[^/?#]*:.*@|^https?://[^/?#]*@|[?&]\w*(pass|token|secret)\w*=")
"""How a URI looks that holds one; over HTTP a user alone may be a token."""


@dataclass(frozen=True, kw_only=True)
class NoInteractionConfig(Options):
    """The embedded fields as they are, one after another."""

    kind: Literal["none"]


@dataclass(frozen=True, kw_only=True)
class DotConfig(Options):
    """Dot products of every two embedded fields, joined to the fields (DLRM)."""

    kind: Literal["dot"]


@dataclass(frozen=True, kw_only=True)
class AllDotsConfig(Options):
    """All dot products of two embedded fields, of each with itself too (the authors of NCS)."""

    kind: Literal["all_dots"]


@dataclass(frozen=True, kw_only=True)
class FMConfig(Options):
    """Elementwise products of every two embedded fields, summed and joined to the fields (FM)."""

    kind: Literal["fm"]


@dataclass(frozen=True, kw_only=True)
class CrossConfig(Options):
    """Layers of explicit feature crosses (DCNv2)."""

    kind: Literal["cross"]
    layers: Count
    """Crosses; the output has products of at most one feature more than there are of them."""
    rank: Count | None
    """Rank of each layer's matrix; null: full."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(Options):
    """Lists pooled by what each value has to do with the row's own (DIN)."""

    kind: Literal["attention"]
    over: dict[str, Text]
    """List -> the field of single ids that its values are held against."""
    hidden: Layers
    """Widths of the network that weighs a value."""


InteractionConfig = (
    NoInteractionConfig | DotConfig | AllDotsConfig | FMConfig | CrossConfig | AttentionConfig
)


@dataclass(frozen=True, kw_only=True)
class BCEConfig(Options):
    """Cross-entropy, of a ratio with the ratio as a soft label: the default."""

    kind: Literal["bce"]


@dataclass(frozen=True, kw_only=True)
class MSEConfig(Options):
    """Squared error of the probability."""

    kind: Literal["mse"]


@dataclass(frozen=True, kw_only=True)
class HuberConfig(Options):
    """Squared error of the probability near the label, absolute error further away."""

    kind: Literal["huber"]
    delta: Annotated[float, Gt(0)]
    """Error at which one becomes the other."""


@dataclass(frozen=True, kw_only=True)
class FocalConfig(Options):
    """Cross-entropy that counts less where the prediction is right; of labels 0 and 1 alone."""

    kind: Literal["focal"]
    alpha: Annotated[float, Gt(0), Lt(1)]
    """Weight of a positive; a negative has the rest of 1."""
    gamma: Annotated[float, Ge(0)]
    """Power of the error that weighs a row; 0: none."""


LossConfig = Annotated[
    BCEConfig | MSEConfig | HuberConfig | FocalConfig, Field(discriminator="kind")
]


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(Options):
    """What all objectives have."""

    losses: dict[str, LossConfig] = field(default_factory=dict)
    """Task -> loss of one row; `bce` for tasks that are not named."""


@dataclass(frozen=True, kw_only=True)
class ClickSpaceConfig(ObjectiveOptions):
    """Each task learns in its own space: CVR on clicked rows."""

    kind: Literal["click_space"]


@dataclass(frozen=True, kw_only=True)
class EntireSpaceConfig(ObjectiveOptions):
    """CTR and CTCVR on all exposures, CVR through their product (ESMM)."""

    kind: Literal["entire_space"]


@dataclass(frozen=True, kw_only=True)
class ExposureSpaceConfig(ObjectiveOptions):
    """Each task learns the product of the labels along its chain on all exposures."""

    kind: Literal["exposure_space"]


@dataclass(frozen=True, kw_only=True)
class DebiasedConfig(ObjectiveOptions):
    """What objectives have in common that learn CVR for all exposures, beside CTCVR."""

    lambda_c: Annotated[float, Ge(0)]
    """Weight of the objective's own loss."""
    lambda_g: Annotated[float, Ge(0)]
    """Weight of the entire-space loss."""


@dataclass(frozen=True, kw_only=True)
class ESCM2IPWConfig(DebiasedConfig):
    """CVR on clicked rows weighted by their inverse propensity."""

    kind: Literal["escm2_ipw"]
    floor: Annotated[float, Gt(0), Lt(1)]
    """Least propensity; a row weighs at most its inverse."""
    self_normalised: bool
    """Whether the weighted loss is divided by the sum of its weights instead of the rows."""


@dataclass(frozen=True, kw_only=True)
class ESCM2DRConfig(DebiasedConfig):
    """An imputed CVR loss on all rows, corrected on clicked ones by inverse propensity."""

    kind: Literal["escm2_dr"]
    lambda_i: Annotated[float, Gt(0)]
    """Weight of the imputation's own loss within the objective's."""
    floor: Annotated[float, Gt(0), Lt(1)]
    """Least propensity; a row weighs at most its inverse."""


@dataclass(frozen=True, kw_only=True)
class DCMTConfig(DebiasedConfig):
    """CVR on clicked rows, and its counterpart on unclicked ones, by inverse propensities."""

    kind: Literal["dcmt"]
    lambda_tie: Annotated[float, Ge(0)]
    """Weight of the distance of the two heads' sum from 1."""
    floor: Annotated[float, Gt(0), Lt(1)]
    """Least propensity, of a click and of none."""


@dataclass(frozen=True, kw_only=True)
class NISEConfig(DebiasedConfig):
    """CVR on clicked rows, and on unclicked ones from the prediction itself as the label."""

    kind: Literal["nise"]
    lambda_u: Annotated[float, Ge(0)]
    """Weight of the unclicked rows."""


ObjectiveConfig = (
    ClickSpaceConfig
    | EntireSpaceConfig
    | ExposureSpaceConfig
    | ESCM2IPWConfig
    | ESCM2DRConfig
    | DCMTConfig
    | NISEConfig
)


@dataclass(frozen=True, kw_only=True)
class EqualConfig(Options):
    """The plain sum of the tasks' losses."""

    kind: Literal["equal"]
    compares_gradients: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class WeightedConfig(Options):
    """A weighted sum; `weights` maps a task's name to its weight, 1 for tasks not named."""

    kind: Literal["weighted"]
    compares_gradients: ClassVar[bool] = False
    weights: dict[str, Annotated[float, Ge(0)]]


@dataclass(frozen=True, kw_only=True)
class ByLossConfig(Options):
    """Weights from the tasks' losses, learned or drawn, by a method without settings."""

    kind: Literal["geometric", "imtl_l", "random", "uncertainty"]
    compares_gradients: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class DWAConfig(Options):
    """Weights by how slowly a task's loss falls."""

    kind: Literal["dwa"]
    compares_gradients: ClassVar[bool] = False
    temperature: Annotated[float, Gt(0)]
    """The higher, the more equal the weights."""
    window: Count
    """Steps whose mean losses are compared with those of as many steps before."""


@dataclass(frozen=True, kw_only=True)
class FAMOConfig(Options):
    """Weights that make all losses fall alike, by a second look at every batch."""

    kind: Literal["famo"]
    compares_gradients: ClassVar[bool] = False
    learning_rate: Annotated[float, Gt(0)]
    """Of the weights' logits."""
    weight_decay: Annotated[float, Ge(0)]
    """Of the weights' logits, towards equal shares."""


@dataclass(frozen=True, kw_only=True)
class NISERatioConfig(Options):
    """The first task's loss over each task's as its weight."""

    kind: Literal["nise_ratio"]
    compares_gradients: ClassVar[bool] = False
    cap: Annotated[float, Gt(0)]
    """Largest ratio."""


@dataclass(frozen=True, kw_only=True)
class STCHConfig(Options):
    """A smooth maximum of the losses, each relative to its mean at the start."""

    kind: Literal["stch"]
    compares_gradients: ClassVar[bool] = False
    mu: Annotated[float, Gt(0)]
    """The smaller, the more the worst task counts alone."""
    warmup_steps: Count
    """Steps whose mean losses are the reference."""


@dataclass(frozen=True, kw_only=True)
class ByGradientConfig(Options):
    """Weights from the inner products of the tasks' gradients, by a method without settings."""

    kind: Literal["aligned_mtl", "imtl_g", "mgda", "nash", "pcgrad", "upgrad"]
    compares_gradients: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class CAGradConfig(Options):
    """The direction near the mean gradient that is best for the task worst off."""

    kind: Literal["cagrad"]
    compares_gradients: ClassVar[bool] = True
    c: Annotated[float, Ge(0), Lt(1)]
    """Distance from the mean gradient, in its norms."""


@dataclass(frozen=True, kw_only=True)
class FairGradConfig(Options):
    """Alpha-fair shares of a step's gain."""

    kind: Literal["fairgrad"]
    compares_gradients: ClassVar[bool] = True
    alpha: Annotated[float, Gt(0)]
    """1: proportional fairness, as `nash`; the larger, the nearer to max-min fairness."""


@dataclass(frozen=True, kw_only=True)
class GradVacConfig(Options):
    """Gradients turned towards cosines that are usual between them."""

    kind: Literal["gradvac"]
    compares_gradients: ClassVar[bool] = True
    beta: Annotated[float, Ge(0), Le(1)]
    """How fast the goals follow the cosines; 0: `pcgrad`."""


@dataclass(frozen=True, kw_only=True)
class GradNormConfig(Options):
    """Weights learned so that gradients are as large as their tasks are late."""

    kind: Literal["gradnorm"]
    compares_gradients: ClassVar[bool] = True
    alpha: Annotated[float, Ge(0)]
    """How much late tasks are favoured; 0: all gradients alike."""
    learning_rate: Annotated[float, Gt(0), Lt(1)]
    """Of the weights."""


@dataclass(frozen=True, kw_only=True)
class MetaBalanceConfig(Options):
    """Gradients as large as that of one task, the target."""

    kind: Literal["metabalance"]
    compares_gradients: ClassVar[bool] = True
    relax: Annotated[float, Ge(0), Le(1)]
    """1: as large as the target's; 0: as they are."""
    decay: Annotated[float, Ge(0), Lt(1)]
    """Of the moving average of a norm, per step."""
    target: str | None
    """Name of the task; null: the last that is trained."""


@dataclass(frozen=True, kw_only=True)
class GradCraftConfig(Options):
    """Gradients as large as the largest, then taken off all conflicts at once."""

    kind: Literal["gradcraft"]
    compares_gradients: ClassVar[bool] = True
    relax: Annotated[float, Ge(0), Le(1)]
    """1: as large as the largest; 0: as they are."""
    decay: Annotated[float, Ge(0), Lt(1)]
    """Of the moving average of a norm, per step."""
    margin: Annotated[float, Ge(0), Lt(1)]
    """Cosine that is left between gradients that conflicted."""


BalancingConfig = (
    EqualConfig
    | WeightedConfig
    | ByLossConfig
    | DWAConfig
    | FAMOConfig
    | NISERatioConfig
    | STCHConfig
    | ByGradientConfig
    | CAGradConfig
    | FairGradConfig
    | GradVacConfig
    | GradNormConfig
    | MetaBalanceConfig
    | GradCraftConfig
)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(Options):
    """Optimisers, batches, early stopping and the device."""

    batch_size: Count
    eval_batch_size: Count
    epochs: Count
    evaluations_per_epoch: Annotated[int, Ge(1), Le(10_000)]
    patience: Count
    """Evaluations without a better validation score before training stops."""
    learning_rate: Annotated[float, Gt(0)]
    weight_decay: Annotated[float, Ge(0)]
    """Decoupled (AdamW), on the dense weights."""
    schedule: Literal["constant", "warmup_cosine"]
    """Course of both learning rates over the steps of a training (`cvrbench.training.loop`)."""
    clip_norm: Annotated[float, Gt(0)] | None
    """Largest norm of the dense weights' gradient; null: as it is. Tables are not clipped."""
    embedding_optimizer: Literal["rowwise_adagrad", "lazy_adam", "adam"]
    """The first two touch only the rows in the batch; `adam` is the textbook one over the table."""
    embedding_learning_rate: Annotated[float, Gt(0)]
    embedding_weight_decay: Annotated[float, Ge(0)]
    """L2 penalty on the rows in the batch."""
    device: Text
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    precision: Literal["fp32", "bf16"]
    compile: bool
    threads: Threads | None
    """CPU threads of torch; null leaves torch's own choice."""
    deterministic: bool
    data: Literal["auto", "memory", "disk"]
    """Where rows are kept; `auto`: in memory, if they take at most half of what is free."""
    checkpoint_seconds: Annotated[float, Gt(0)]
    """Least time between two checkpoints of an unfinished run."""
    check_memory: bool
    """Whether a run that will not fit into the free memory is refused before it begins."""


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig(Options):
    """How a run chooses on validation and what it may touch."""

    selection: Text
    """`mean_auc` (mean over the trained tasks of each task's AUC in its own space) or a metric."""
    score_test: bool
    """Score the test split once, after all choices. Sweep trials set this to false."""
    label_share: Annotated[float, Gt(0), Le(1)]
    """Share of one task's training labels that a run may learn from (`data.label_subsampling`)."""
    label_share_task: str | None
    """Which task's; null: the last that has a parent, else the last."""


@dataclass(frozen=True, kw_only=True)
class NoLoggerConfig(Options):
    """Nobody."""

    kind: Literal["none"]


@dataclass(frozen=True, kw_only=True)
class TensorBoardConfig(Options):
    """Event files that `tensorboard --logdir FOLDER` shows."""

    kind: Literal["tensorboard"]
    folder: Text | None
    """One folder per run goes in here; null: `tensorboard` in the results folder."""


@dataclass(frozen=True, kw_only=True)
class WandbConfig(Options):
    """Weights & Biases, or files for it."""

    kind: Literal["wandb"]
    project: Text
    entity: Text | None
    """User or team; null: the key's own."""
    mode: Literal["online", "offline", "disabled"]
    folder: Text | None
    """Where its files go; null: the results folder."""


@dataclass(frozen=True, kw_only=True)
class MLflowConfig(Options):
    """An MLflow server or database."""

    kind: Literal["mlflow"]
    tracking_uri: Text | None
    """null: `$MLFLOW_TRACKING_URI`; without it a database of our own in the results folder."""
    experiment: Text

    def __post_init__(self) -> None:
        """Refuse a password, which would be written beside the run's results."""
        if PASSWORD.search(self.tracking_uri or ""):
            raise ValueError(
                "tracking_uri holds a password, which must not be kept with results; leave it null "
                "and set MLFLOW_TRACKING_URI in the environment, or give the URI without it and "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )


LoggerConfig = NoLoggerConfig | TensorBoardConfig | WandbConfig | MLflowConfig


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """One experiment: everything that decides its numbers, and where it reads and writes."""

    dataset: DatasetConfig
    interaction: InteractionConfig
    model: ModelConfig
    objective: ObjectiveConfig
    balancing: BalancingConfig
    trainer: TrainerConfig
    protocol: ProtocolConfig
    logger: LoggerConfig
    seed: Seed
    data_dir: Text
    results_dir: Text

    def __post_init__(self) -> None:
        """Refuse what two groups cannot do together."""
        masked = isinstance(self.model, NCSConfig) and "embeddings" in self.model.masked
        if masked and self.trainer.embedding_optimizer == "adam":
            raise ValueError(
                "trainer.embedding_optimizer=adam moves the whole table, masked entries included; "
                "with model.masked=[embeddings] use rowwise_adagrad or lazy_adam"
            )

        if self.balancing.compares_gradients and (why := self._nothing_to_compare(masked)):
            raise ValueError(
                f"balancing={self.balancing.kind} compares the tasks' gradients in what they "
                f"share, but {why}; use balancing=equal or weighted"
            )

    def _nothing_to_compare(self, masked: bool) -> str | None:
        """Return why there is no common gradient of all tasks in a step; None where there is."""
        if isinstance(self.model, SingleTaskConfig):
            return "model=single_task shares nothing"
        if masked:
            return "with model.masked=[embeddings] every task reads embeddings of its own"
        if isinstance(self.model, NCSConfig) and self.model.step == "alternate":
            return "model.step=alternate takes a step for one task at a time"
        if self.trainer.compile:
            return "trainer.compile=true frees what a second gradient needs"
        return None

    @property
    def all_but_seed(self) -> str:
        """What runs have in common that differ in their seed alone."""
        return repr(replace(self, seed=0))
