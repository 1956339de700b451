"""Strategies of several authors against numbers of their own code, on the same weights."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cvrbench.data.schema import MultiValued
from cvrbench.errors import ConfigError
from cvrbench.nn import FeatureEncoder
from cvrbench.nn.multiply_adds import count_multiply_adds
from cvrbench.strategies import SharingStrategy
from cvrbench.strategies.adatt import AdaTT
from cvrbench.strategies.cross_stitch import CrossStitch
from cvrbench.strategies.dselect_k import DSelectGates
from cvrbench.strategies.pepnet import PEPNet
from cvrbench.strategies.snr import SNRTrans, draw_gates, share_open
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


def fill_in(
    network: SharingStrategy, values: dict[str, Tensor], heads: str = "towers"
) -> SharingStrategy:
    """Put values into named parameters, and those of the towers' heads, of which all have one."""
    named = dict(network.double().named_parameters())
    n = len(named[f"{heads}.bias"])
    values = values | {f"{heads}.head": fill(n, HIDDEN[-1], 1, shift=1)}
    values = values | {f"{heads}.bias": fill(n, shift=2)}
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
    z = torch.stack([draw_gates(network.log_alpha, training=True).detach() for _ in range(20_000)])
    share = (z > 0).double().mean(dim=0)
    torch.testing.assert_close(share.float(), share_open(network.log_alpha), atol=0.012, rtol=0)
    # P(z = 1) = P(s > (1 - gamma) / (zeta - gamma)), s the logistic of ln alpha
    full = torch.sigmoid(network.log_alpha - 2 / 3 * torch.tensor(1.1 / 0.1).log())
    torch.testing.assert_close((z == 1).float().mean(dim=0), full, atol=0.012, rtol=0)
    network.l0 = 0.5
    features = make_batch(make_schema()).features
    expected = 0.5 * share_open(network.log_alpha).sum()
    torch.testing.assert_close(network(features).penalty, expected)
    assert network.eval()(features).penalty is None


def test_tables_of_stem_are_counted():
    schema = make_schema()
    one = FeatureEncoder(schema, 4).table.numel()
    assert build("stem", schema).encoder.table.numel() == 3 * one


# alibaba/TorchEasyRec, tzrec/modules/personalized_net.py: EPNet and PPNet, and the gradient of the
# first task's logits plus twice the second's by what is looked up.
PEPNET_LOGITS = [
    [-0.392347444213, -0.544831124021],
    [-0.43510818301, -0.623688509159],
    [-0.498135028929, -0.329505381107],
    [-0.366816387807, -0.246279755616],
]
PEPNET_GRADIENT = [
    [
        -0.242520014459,
        -0.075794736278,
        0.325799327179,
        0.703707911978,
        0.216722204927,
        -0.198339217998,
    ],
    [
        -0.051153904631,
        -0.035254783584,
        0.007822211908,
        0.10477358391,
        0.071659082649,
        -0.026138572852,
    ],
    [
        -0.096131963461,
        -0.006456381186,
        0.129902896888,
        0.168185201629,
        -0.057750717205,
        -0.166670932795,
    ],
    [
        -0.169771704572,
        -0.094141138729,
        0.165639220874,
        0.306672827606,
        0.077853223465,
        -0.113944563658,
    ],
]
# LibMTL, architecture/DSelect_k.py, a port of the authors', bits read as numbers: each task's
# mixture, summed over units.
DSELECT_K = {
    (4, 2): [
        [0.006395826652, 0.416585917902, 0.056662154216, -0.11333389089],
        [0.236010862885, -0.055028277837, -0.130435672253, -0.137426852676],
    ],
    (3, 2): [
        [-0.152510311936, 0.310314528767, 0.050965623327, -0.036136647998],
        [0.123480473483, -0.122618806342, -0.134783362996, -0.03688273048],
    ],
    (5, 3): [
        [-0.005896013507, 0.076978709018, 0.134322738128, 0.011867961011],
        [-0.03333751103, 0.137867346247, 0.155462221369, -0.049333549792],
    ],
}
"""Experts, selectors -> tasks, rows."""


def test_pepnet_is_that_of_torcheasyrec():
    names = [MultiValued(name="tags", size=12), MultiValued(name="place", size=4)]
    schema = replace(
        make_schema(), multivalued=tuple(names), categorical=make_schema().categorical[:1]
    )
    config = chosen(
        "model",
        "pepnet",
        embedding_dim=2,
        hidden=(4, 4),
        tower=(),
        gate_hidden=4,
        prior=("user", "place"),
    )
    encoded = fill(ROWS, WIDTH, shift=0).requires_grad_()
    network = PEPNet(config, schema, Given(encoded), ())
    values = gate("epnet", 1, WIDTH + 4, WIDTH, shifts=(40, 41, 42, 43))
    for layer, n_in in enumerate((WIDTH, 4)):
        values[f"layers.{layer}.weights.0"] = fill(2, n_in, 4, shift=10 + layer)
        values[f"layers.{layer}.biases.0"] = fill(2, 1, 4, shift=20 + layer)
        shifts = (50 + layer, 52 + layer, 54 + layer, 56 + layer)
        values |= gate(f"ppnets.{layer}", 2, WIDTH + 4, 4, shifts=shifts)
    logits = fill_in(network, values, heads="heads")(None).logits
    assert_equal(logits, PEPNET_LOGITS)
    (gradient,) = torch.autograd.grad((logits * torch.arange(1, 3)).sum(), encoded)
    assert_equal(gradient, PEPNET_GRADIENT)


def gate(prefix: str, n: int, n_in: int, n_out: int, *, shifts) -> dict[str, Tensor]:
    shapes = {
        "network.weights.0": (n, n_in, 4),
        "network.biases.0": (n, 1, 4),
        "weight": (n, 4, n_out),
        "bias": (n, 1, n_out),
    }
    each = zip(shapes.items(), shifts, strict=True)
    return {f"{prefix}.{name}": fill(*shape, shift=shift) for (name, shape), shift in each}


def assert_equal(found: Tensor, theirs: object) -> None:
    expected = torch.tensor(theirs, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_pepnet_whose_gates_are_1_is_shared_embedding_and_reads_no_gradient_through_them():
    schema = make_schema()
    pepnet = build("pepnet", schema, seed=1, prior=("item",))
    for each in (pepnet.epnet, *pepnet.ppnets):
        torch.nn.init.zeros_(each.weight)
    names = {}
    for part in ("weights", "biases"):
        names |= {f"layers.{layer}.{part}.0": f"trunks.{part}.{layer}" for layer in range(2)}
        names[f"layers.2.{part}.0"] = f"towers.network.{part}.0"
    names |= {"heads.head": "towers.head", "heads.bias": "towers.bias"}
    relate(build("shared_embedding", schema), pepnet, names)


def test_pepnet_names_the_fields_that_it_may_be_given():
    with pytest.raises(ConfigError, match=r"model.prior names nobody.*user, item, tags"):
        build("pepnet", make_schema(), prior=("nobody",))


@pytest.mark.parametrize("sizes", DSELECT_K)
def test_dselect_k_is_its_authors(sizes):
    n_experts, k = sizes
    config = chosen("model", "dselect_k", n_experts=n_experts, k=k)
    gates = DSelectGates(2, WIDTH, config).double()
    with torch.no_grad():
        gates.weight.copy_(fill(*gates.weight.shape, shift=50))
        gates.bias.copy_(fill(*gates.bias.shape, shift=51))
    mixtures, penalty = gates(fill(ROWS, WIDTH, shift=0))
    mixed = torch.einsum("tbe,ebo->tb", mixtures, fill(n_experts, ROWS, 4, shift=30))
    assert_equal(mixed, DSELECT_K[sizes])
    penalty.backward()  # selectors of experts that are not there have no share at all
    assert torch.isfinite(gates.weight.grad).all()


def test_dselect_k_that_has_decided_for_one_expert_each_is_mmoe():
    schema = make_schema()
    mmoe = build("mmoe", schema, n_experts=4)
    selecting = build("dselect_k", schema, seed=1, n_experts=4, k=4)
    names = {f"experts.{p}.{n}": f"experts.{p}.{n}" for p in ("weights", "biases") for n in (0, 1)}
    copy_common(mmoe, selecting, names)
    gates = selecting.gates
    with torch.no_grad():
        gates.weight[..., :8], gates.bias[..., 8:] = 0.0, 0.0
        gates.weight[..., 8:] = mmoe.gates.weight
        gates.bias[..., :8] = gates.codes.flatten() * 2.0 - 1.0
    features = make_batch(schema, 64).features
    torch.testing.assert_close(selecting(features).logits, mmoe(features).logits)
    _, penalty = gates(selecting.encoder(features))
    torch.testing.assert_close(penalty, torch.zeros(()), atol=1e-9, rtol=0)


def test_mssm_with_open_gates_and_one_cell_is_shared_bottom():
    schema = make_schema()
    mssm = build("mssm", schema, seed=1, n_cells=1)
    with torch.no_grad():
        mssm.field_logits.fill_(20.0)
        mssm.cell_logits.fill_(20.0)
    names = {f"layers.{n}.{p}.0": f"trunk.{p}.{n}" for n in range(2) for p in ("weights", "biases")}
    relate(build("shared_bottom", schema), mssm.eval(), names)


def test_mssm_by_hand():
    """Loops over tasks, fields, layers and cells, in numpy."""
    schema = make_schema()
    mssm = build("mssm", schema, n_cells=3, tower=()).double().eval()
    with torch.no_grad():
        for parameter in mssm.parameters():
            parameter.normal_()
    features = make_batch(schema).features
    features = features._replace(
        numeric=features.numeric.double(), bag_weights=features.bag_weights.double()
    )
    encoded = mssm.encoder(features).detach().numpy()  # user, item and tags of 4 numbers, age

    def opened(logits: Tensor) -> np.ndarray:
        return np.clip(1.2 / (1 + np.exp(-logits.detach().numpy())) - 0.1, 0, 1)

    of_fields, of_cells = opened(mssm.field_logits), opened(mssm.cell_logits)
    columns = []
    for task in range(2):
        gates = of_fields[task]
        x = np.hstack([encoded[:, 4 * f : 4 * f + 4] * gates[f] for f in range(3)])
        x = np.hstack([x, encoded[:, 12:] * gates[3]])
        for number, layer in enumerate(mssm.layers):
            weight, bias = layer.weights[0].detach().numpy(), layer.biases[0].detach().numpy()
            cells = [np.maximum(x @ weight[c] + bias[c], 0) for c in range(3)]
            x = sum(of_cells[task, 3 * number + c] * cells[c] for c in range(3))
        head = mssm.towers.head[task].detach().numpy()
        columns.append(x @ head[:, 0] + mssm.towers.bias[task].item())
    assert_equal(mssm(features).logits.detach(), np.stack(columns, axis=1))
    mssm.train()
    expected = mssm.l0 * (share_open(mssm.field_logits).sum() + share_open(mssm.cell_logits).sum())
    torch.testing.assert_close(mssm(features).penalty, expected)


def test_parameters_and_multiply_adds_are_those_of_the_formulas():
    """Encoder 13 wide, layers 8 and 6, tower 5, two tasks, 3 experts; a row's multiply-adds."""
    schema, towers = make_schema(), 2 * (6 * 5 + 5)
    tower_size = 2 * (6 * 5 + 5 + 5 + 1)
    gates = {17: 17 * 4 + 4}  # of PEPNet, with a prior of 4 numbers and 4 hidden units
    pepnet = 2 * (13 * 8 + 8 * 6 + 6 * 5 + 5) + (17 * 4 + 4 * 13)
    pepnet += 2 * (3 * 17 * 4 + 4 * (8 + 6 + 5))
    size = 2 * (13 * 8 + 8 + 8 * 6 + 6 + 6 * 5 + 5 + 5 + 1) + gates[17] + 4 * 13 + 13
    size += 2 * (3 * gates[17] + 4 * (8 + 6 + 5) + 8 + 6 + 5)
    cells = 3 * (13 * 8 + 8 * 6)
    known = {
        "pepnet": (size, pepnet, {"prior": ("item",), "gate_hidden": 4}),
        "mssm": (
            cells + 3 * (8 + 6) + 2 * (4 + 6) + tower_size,
            2 * cells + 2 * 3 * (8 + 6) + towers,
            {"n_cells": 3},
        ),
        "dselect_k": (
            cells + 3 * (8 + 6) + 2 * (13 + 1) * 2 * 3 + tower_size,
            cells + 2 * 13 * 2 * 3 + 2 * 3 * 6 + towers,
            {"k": 2},
        ),
    }
    features = make_batch(schema, 16).features
    for kind, (parameters, multiply_adds, changes) in known.items():
        network = build(kind, schema, **changes).eval()
        table = network.encoder.table
        found = sum(p.numel() for p in network.parameters() if p is not table)
        assert found == parameters, kind
        assert count_multiply_adds(lambda n=network: n(features)) == 16 * multiply_adds, kind
