"""Strategies of several authors against numbers of their own code, on the same weights."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from cvrbench.nn import FeatureEncoder
from cvrbench.strategies import SharingStrategy
from cvrbench.strategies.adatt import AdaTT
from cvrbench.strategies.cross_stitch import CrossStitch
from cvrbench.strategies.snr import SNRTrans
from cvrbench.strategies.stem import STEM
from tests.models.conftest_models import build, chosen, make_batch, make_schema
from tests.models.test_strategy_relations import copy_common

ROWS, WIDTH, HIDDEN = 4, 6, (5, 4)


def fill(*shape: int, shift: float) -> Tensor:
    n = torch.Size(shape).numel()
    return (torch.sin(torch.arange(n).double() * 1.3 + 1.7 * shift) * 0.5).view(shape)


class Given(nn.Module):
    """An encoder that returns what it was given."""

    interaction = None

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value, self.width = value, value.shape[-1]

    def forward(self, _: object) -> Tensor:
        return self.value


def fill_in(network: SharingStrategy, values: dict[str, Tensor]) -> SharingStrategy:
    """Put values into named parameters, and those of the towers' heads, of which all have one."""
    named = dict(network.double().named_parameters())
    heads = {"towers.head": fill(len(named["towers.bias"]), HIDDEN[-1], 1, shift=1)}
    values = values | heads | {"towers.bias": fill(len(named["towers.bias"]), shift=2)}
    assert named.keys() == values.keys()
    with torch.no_grad():
        for name, value in values.items():
            named[name].copy_(value)
    return network.eval()


def mlps(n: int, shifts: tuple[int, ...], n_in: int, prefix: str) -> dict[str, Tensor]:
    """Weights of n networks; a shift per layer, that of its biases 10 more."""
    return {
        f"{prefix}.{part}.{layer}": value
        for layer, (shift, (i, o)) in enumerate(zip(shifts, pairwise([n_in, *HIDDEN]), strict=True))
        for part, value in (
            ("weights", fill(n, i, o, shift=shift)),
            ("biases", fill(n, 1, o, shift=shift + 10)),
        )
    }


# facebookresearch/AdaTT, mtl_lib.py: CrossStitch, AdaTTSp and AdaTTWSharedExps, gates' biases 0.
CROSS_STITCH = [
    [-0.153167862339, -0.409611168742],
    [-0.159938535747, -0.409825315252],
    [-0.149175148592, -0.430448544771],
    [-0.141352619594, -0.432803363216],
]
ADATT = {
    (2, 1, 0): [
        [0.221532094978, -0.204770465121],
        [0.216996611398, -0.105377508945],
        [0.182145887003, -0.112559447754],
        [0.170156326498, -0.190315378494],
    ],
    (2, 2, 0): [
        [-0.06244034494, -0.516192482435],
        [-0.082567763674, -0.497360782531],
        [-0.074294031239, -0.510573184336],
        [-0.056781145636, -0.523845788368],
    ],
    (3, 2, 0): [
        [-0.091299844802, -0.529315430499, -0.13376731042],
        [-0.092338090871, -0.53328373942, -0.132593151763],
        [-0.096377565994, -0.540743081747, -0.130420110621],
        [-0.094792246109, -0.545620701869, -0.140590170075],
    ],
    (2, 2, 1): [
        [-0.149852190804, -0.501726490674],
        [-0.145560868188, -0.505637014629],
        [-0.136667980201, -0.510449051778],
        [-0.137089136442, -0.509561385418],
    ],
    (2, 1, 1): [
        [0.067013629605, -0.224851572739],
        [0.074308151322, -0.16410494928],
        [0.061109904134, -0.170923263667],
        [0.033993569434, -0.239608764075],
    ],
    (3, 1, 2): [
        [-0.211863515472, -0.507367632677, -0.058813420483],
        [-0.212452451241, -0.506999777178, -0.055635072348],
        [-0.217711313708, -0.517187354828, -0.049996456201],
        [-0.218431373013, -0.519048429643, -0.050469085656],
    ],
}
"""Tasks, own experts per task, shared experts -> logits after two levels."""
# LiangcaiSu/STEM, models/STEM.py: STEM_Layer, gates' last biases 0: logits, and the gradient of
# the first task's logits plus 2 (3) times the second's (third's) by table and row.
STEM_LOGITS = {
    (2, 2, 1): [
        [-0.187096741074, -0.454788832418],
        [-0.182395352319, -0.42399279031],
        [-0.205895758755, -0.406924178373],
        [-0.206487915086, -0.447488305971],
    ],
    (3, 1, 2): [
        [-0.188810101317, -0.457830087432, -0.066085812282],
        [-0.182430808625, -0.426537321672, -0.073901525301],
        [-0.197787045145, -0.406349670826, -0.041169504652],
        [-0.209885996755, -0.442703879049, -0.023681856901],
    ],
}
STEM_GRADIENTS = {
    (2, 2, 1): [
        [0.020172802234, -0.035206300864, -0.006403859344, -0.016536423714],
        [-0.097192348628, 0.266960791558, 0.495528534671, 0.338334370738],
        [0.188571221137, 0.18311133907, 0.165717691468, 0.256113774046],
    ],
    (3, 1, 2): [
        [-0.054710100411, -0.096497107996, -0.062519974068, -0.088895777107],
        [0.190945846945, 0.188755403143, 0.189127624881, 0.223934401857],
        [-0.100859944913, -0.229969025718, -0.220929245137, -0.18847830756],
        [0.469579377741, -0.011527718146, 0.024062379137, 0.511590903844],
    ],
}


def test_cross_stitch_is_that_of_adatts_authors():
    config = chosen("model", "cross_stitch", hidden=HIDDEN, tower=())
    network = CrossStitch(config, make_schema(2), Given(fill(ROWS, WIDTH, shift=0)), ())
    layers = [(10, WIDTH, 5), (11, 5, 4)]
    values = {}
    for number, (shift, n_in, n_out) in enumerate(layers):
        values[f"layers.{number}.weights.0"] = fill(2, n_in, n_out, shift=shift)
        values[f"layers.{number}.biases.0"] = fill(2, 1, n_out, shift=shift + 10)
        values[f"stitches.{number}"] = fill(2, 2, 1, shift=shift + 20)
    logits = fill_in(network, values)(None).logits
    torch.testing.assert_close(
        logits, torch.tensor(CROSS_STITCH, dtype=torch.float64), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("sizes", ADATT)
def test_adatt_is_its_authors(sizes):
    tasks, own, shared = sizes
    config = chosen(
        "model",
        "adatt",
        hidden=HIDDEN,
        tower=(),
        levels=2,
        n_specific_experts=own,
        n_shared_experts=shared,
    )
    network = AdaTT(config, make_schema(tasks), Given(fill(ROWS, WIDTH, shift=0)), ())
    n, values = tasks * own + shared, {}
    for level, n_in in enumerate((WIDTH, HIDDEN[-1])):
        values |= mlps(n, (10 + level, 30 + level), n_in, f"levels.{level}.experts")
        paths = tasks + (shared > 0 and level == 0)
        values[f"levels.{level}.gates.weight"] = fill(paths, n_in, n, shift=50 + level)
        if own > 1 or shared > 1:
            values[f"levels.{level}.native"] = fill(n, shift=60 + level)
    logits = fill_in(network, values)(None).logits
    torch.testing.assert_close(
        logits, torch.tensor(ADATT[sizes], dtype=torch.float64), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("sizes", STEM_LOGITS)
def test_stem_and_what_it_teaches_its_tables_are_its_authors(sizes):
    tasks, own, shared = sizes
    config = chosen(
        "model",
        "stem",
        hidden=HIDDEN,
        gate_hidden=(3,),
        tower=(),
        n_specific_experts=own,
        n_shared_experts=shared,
    )
    tables = fill(tasks + 1, ROWS, WIDTH, shift=3).requires_grad_()
    network = STEM(config, make_schema(tasks), Given(tables), ())
    n = tasks * own + shared
    values = mlps(n, (10, 11), WIDTH, "experts") | {
        "gate_networks.weights.0": fill(tasks, WIDTH, 3, shift=30),
        "gate_networks.biases.0": fill(tasks, 1, 3, shift=31),
        "gates.weight": fill(tasks, 3, n, shift=50),
    }
    logits = fill_in(network, values)(None).logits
    theirs = torch.tensor(STEM_LOGITS[sizes], dtype=torch.float64)
    torch.testing.assert_close(logits, theirs, atol=1e-9, rtol=0)
    (gradient,) = torch.autograd.grad((logits * torch.arange(1, tasks + 1)).sum(), tables)
    theirs = torch.tensor(STEM_GRADIENTS[sizes], dtype=torch.float64)
    torch.testing.assert_close(gradient.sum(dim=2), theirs, atol=1e-9, rtol=0)


def relate(source: SharingStrategy, target: SharingStrategy, names: dict[str, str]) -> None:
    """Check that two strategies predict the same once `target` has the weights of `source`."""
    copy_common(source, target, names)
    features = make_batch(make_schema(), 64).features
    torch.testing.assert_close(target(features).logits, source(features).logits)


def test_cross_stitch_that_mixes_nothing_is_shared_embedding():
    schema = make_schema()
    names = {
        f"layers.{n}.{p}.0": f"trunks.{p}.{n}" for n in range(2) for p in ("weights", "biases")
    }
    for mix in ("layer", "unit"):
        network = build("cross_stitch", schema, seed=1, own=1.0, mix=mix)
        relate(build("shared_embedding", schema), network, names)


def test_adatt_without_native_weights_and_of_one_level_is_mmoe():
    schema = make_schema()
    mmoe = build("mmoe", schema, n_experts=4)
    adatt = build("adatt", schema, seed=1, levels=1, n_specific_experts=2, n_shared_experts=0)
    with torch.no_grad():
        adatt.levels[0].native.zero_()
    names = {"levels.0.gates.weight": "gates.weight"}
    names |= {
        f"levels.0.experts.{p}.{n}": f"experts.{p}.{n}"
        for p in ("weights", "biases")
        for n in range(2)
    }
    relate(mmoe, adatt, names)


def test_resflow_adds_the_parents_to_a_plain_network():
    """By hand: two layers and a logit, each on top of the parent's."""
    schema = make_schema(3)  # cvr and like have parent ctr
    network = build("resflow", schema, tower=())
    features = make_batch(schema).features
    x = network.encoder(features)
    outs: list[list[Tensor]] = [[], [], []]
    for t in range(3):
        o = x
        for n, layer in enumerate(network.layers):
            o = torch.relu(o @ layer.weights[0][t] + layer.biases[0][t])
            o = o if t == 0 else o + outs[0][n]
            outs[t].append(o)
        logit = o @ network.heads.head[t, :, 0] + network.heads.bias[t]
        outs[t].append(logit if t == 0 else logit + outs[0][-1])
    expected = torch.stack([out[-1] for out in outs], dim=1)
    torch.testing.assert_close(network(features).logits, expected)


def test_dbmtl_of_one_task_is_shared_bottom():
    schema = make_schema(1)
    network = build("dbmtl", schema, seed=1, tower=(5,), relation=(3,))
    shared = build("shared_bottom", schema, tower=(5, 3))
    names = {}
    for p in ("weights", "biases"):
        names |= {f"own.{p}.0": f"towers.network.{p}.0"}
        names |= {f"relations.0.{p}.0": f"towers.network.{p}.1"}
    names |= {"heads.head": "towers.head", "heads.bias": "towers.bias"}
    relate_one = make_batch(schema, 64).features
    copy_common(shared, network, names)
    torch.testing.assert_close(network(relate_one).logits, shared(relate_one).logits)


def test_dbmtl_reads_all_tasks_above():
    """The last of a chain moves with every ancestor's tower, the first with its own alone."""
    schema = make_schema()
    network = build("dbmtl", schema)
    features = make_batch(schema).features
    for task, moved in ((0, [True, True]), (1, [False, True])):
        before = network(features).logits
        with torch.no_grad():
            network.own.biases[0][task] += 1.0
        changed = (network(features).logits != before).any(dim=0)
        assert changed.tolist() == moved


def test_stem_with_equal_tables_is_mmoe():
    schema = make_schema()
    mmoe = build("mmoe", schema, n_experts=3)
    stem = build("stem", schema, seed=1, gate_hidden=(), n_specific_experts=1, n_shared_experts=1)
    names = {f"experts.{p}.{n}": f"experts.{p}.{n}" for p in ("weights", "biases") for n in (0, 1)}
    copy_common(mmoe, stem, names)
    with torch.no_grad():
        stem.encoder.table.copy_(mmoe.encoder.table.repeat(3, 1))
        stem.gates.weight.copy_(mmoe.gates.weight / 2)  # which read both tables
    features = make_batch(schema, 64).features
    torch.testing.assert_close(stem(features).logits, mmoe(features).logits)


def test_a_table_of_stem_is_moved_by_its_own_task_alone():
    schema = make_schema()
    network = build("stem", schema)
    network.encoder.sparse = False
    for task in range(2):
        loss = network(make_batch(schema, 64).features).logits[:, task].sum()
        (gradient,) = torch.autograd.grad(loss, [network.encoder.table])
        moved = gradient.view(3, -1).abs().sum(dim=1) > 0
        assert moved.tolist() == [task == 0, task == 1, True]


def test_snr_with_open_gates_and_identities_is_the_mean_of_its_networks():
    schema = make_schema()
    mmoe, snr = build("mmoe", schema, n_experts=3), build("snr_trans", schema, seed=1, n_experts=3)
    names = {f"experts.{p}.{n}": f"experts.{p}.{n}" for p in ("weights", "biases") for n in (0, 1)}
    copy_common(mmoe, snr, names)
    with torch.no_grad():
        mmoe.gates.weight.zero_()
        snr.log_alpha.fill_(20.0)
        snr.transforms.copy_(torch.eye(6) / 3)
    features = make_batch(schema, 64).features
    torch.testing.assert_close(snr.eval()(features).logits, mmoe(features).logits)


def test_gates_of_snr_are_hard_concrete_variables():
    """The share of closed and of open gates that are drawn, against the distribution's own."""
    network = build("snr_trans", make_schema())
    assert isinstance(network, SNRTrans)
    with torch.no_grad():
        network.log_alpha.copy_(torch.tensor([[-2.0, 0.0, 2.0], [-1.0, 1.0, 3.0]]))
    torch.manual_seed(0)
    z = torch.stack([network.gates().detach() for _ in range(20_000)])
    share = (z > 0).double().mean(dim=0)
    torch.testing.assert_close(share.float(), network.expected_open(), atol=0.012, rtol=0)
    # P(z = 1) = P(s > (1 - gamma) / (zeta - gamma)), s the logistic of ln alpha
    full = torch.sigmoid(network.log_alpha - 2 / 3 * torch.tensor(1.1 / 0.1).log())
    torch.testing.assert_close((z == 1).float().mean(dim=0), full, atol=0.012, rtol=0)
    network.l0 = 0.5
    features = make_batch(make_schema()).features
    expected = 0.5 * network.expected_open().sum()
    torch.testing.assert_close(network(features).penalty, expected)
    assert network.eval()(features).penalty is None


def test_tables_of_stem_are_counted():
    schema = make_schema()
    one = FeatureEncoder(schema, 4).table.numel()
    assert build("stem", schema).encoder.table.numel() == 3 * one
