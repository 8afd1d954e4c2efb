"""Channels of a convolutional network: associations against dense formulas, positions, training, random numbers"""
import resource

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.func import jacrev

from modspec.core.data import Dataset, Digits, load_dataset
from modspec.core.streams import generators
from modspec.measures.channels import (
    N_POSITIONS,
    at_positions,
    channel_association,
    channel_covariances,
    channel_input_jacobians,
    channel_output_jacobians,
    draw_positions,
    probe_directions,
)
from modspec.networks.residual import (
    RESIDUAL_LAYERS,
    ResidualBlock,
    ResidualNetwork,
    drop_channels,
    init_residual,
)
from modspec.studies.upstream_downstream.convolutional import (
    CHANNEL_MEASURES,
    CONVOLUTIONAL_SEED,
    PATIENCE,
    ConvolutionalTraining,
    against_untrained,
    channel_associations,
    channel_clusters,
    convolutional_table,
    plot_channel_q,
    square_images,
    squared_weights,
    train_residual,
)

CHANNELS, WIDTHS = (4, 4, 6, 6), [4, 4, 4, 6, 6, 12]


def rng(seed=0): return generators([seed], 'test')[0]


def pictures(n, side, seed=0): return torch.rand(n, 1, side, side, generator=rng(seed))


def network(seed=0):
    "With normalizations that have seen something, as after training"
    net = init_residual(CHANNELS, seed=seed).train()
    with torch.no_grad(): net(pictures(40, 8, seed=1))
    return net.eval()


@pytest.fixture(scope='module')
def net(): return network()


@pytest.fixture(scope='module')
def digits():
    "Few images of the embedded digits"
    train = load_dataset('digits').train
    return Digits(train.images[:300], train.labels[:300])


# the network

def test_shapes_on_mnist():
    h = init_residual(seed=0).eval().layers(pictures(2, 28))
    expected = [(8, 28, 28), (8, 28, 28), (16, 14, 14), (32, 7, 7), (32, 4, 4), (64, 1, 1)]
    assert [tuple(x.shape[1:]) for x in h] == expected and len(h) == len(RESIDUAL_LAYERS)


def test_a_block_is_pre_activated():
    "Against the formula; nothing is cut off at 0 on the way out, and no convolution has a bias"
    block, x = network().stages[1][0], torch.randn(3, 4, 6, 6, generator=rng())
    a = F.relu(block.norm_1(x))
    inner = F.relu(block.norm_2(F.conv2d(a, block.conv_1.weight, stride=2, padding=1)))
    expected = F.conv2d(inner, block.conv_2.weight, padding=1) + F.conv2d(a, block.short.weight, stride=2)
    assert torch.allclose(block(x), expected, atol=1e-6) and (block(x) < 0).any()
    assert {name for name, _ in block.named_parameters() if 'bias' in name} == {'norm_1.bias', 'norm_2.bias'}


def test_a_shortcut_is_the_identity_where_sizes_stay():
    block, x = ResidualBlock(4, 4).eval(), torch.randn(2, 4, 5, 5, generator=rng())
    torch.nn.init.zeros_(block.conv_2.weight)
    assert torch.equal(block(x), x)


def test_pooled_layer_is_maximum_and_mean(net):
    *_, last, pooled = net.layers(pictures(3, 28))
    assert torch.equal(pooled[:, :6, 0, 0], last.flatten(2).max(-1).values)
    assert torch.allclose(pooled[:, 6:, 0, 0], last.flatten(2).mean(-1))


def test_first_weights_are_in_the_range_of_pytorch_and_made_of_the_seed():
    one, same, other = (init_residual(seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(one.stem.weight, other.stem.weight)
    wide = one.stages[3][1].conv_1.weight
    assert .95 * 288**-.5 < wide.abs().max() <= 288**-.5
    assert all(b.running_mean.eq(0).all() and b.running_var.eq(1).all() for b in one.modules()
               if isinstance(b, torch.nn.BatchNorm2d))


def test_dropout_takes_whole_channels_and_keeps_the_mean():
    h = drop_channels(torch.ones(2000, 5, 2, 3), .4, rng())
    assert (h == h[:, :, :1, :1]).all() and abs((h == 0).float().mean() - .4) < .02 and abs(h.mean() - 1) < .04
    assert torch.equal(h, drop_channels(torch.ones(2000, 5, 2, 3), .4, rng()))


def test_dropout_follows_the_stages_only(net):
    "A stem and a pooled layer are never dropped themselves"
    h = net.layers(pictures(200, 8), .5, rng())
    silent = [(x.flatten(2) == 0).all(-1).float().mean().item() for x in h]
    assert silent[0] == 0 and all(abs(share - .5) < .1 for share in silent[1:5])
    assert torch.equal(net(pictures(5, 8)), net(pictures(5, 8), .5))  # without a generator nothing is dropped


@pytest.mark.parametrize('p', [-.1, 1., float('nan')])
def test_dropout_out_of_range(p):
    with pytest.raises(ValueError, match='p must be'): drop_channels(torch.ones(1, 1, 1, 1), p, rng())


@pytest.mark.parametrize('channels', [(8, 16), (8, 16, 0, 32)])
def test_bad_channels(channels):
    with pytest.raises(ValueError, match='channels must be'): ResidualNetwork(channels)


# associations

def dense(net, x):
    "The three matrices of every layer of images of one pixel, from full Jacobians of single images"
    found = {name: [] for name in CHANNEL_MEASURES}
    for k in range(len(RESIDUAL_LAYERS)):
        def encoder(v, k=k): return net.layers(v.view(1, 1, 1, 1))[k].flatten()

        def tail(h, k=k):
            h = h.view(1, -1, 1, 1)
            for stage in net.stages[k:]: h = stage(h)
            if k < 5: h = torch.cat([h, h], 1)
            return net.readout(h.flatten(1)).flatten()
        H = torch.stack([encoder(v) for v in x.flatten()]).detach()
        J = torch.stack([jacrev(encoder)(v) for v in x.flatten()])
        G = torch.stack([jacrev(tail)(h) for h in H])
        found['covariance'].append(torch.tensor(np.cov(H.double().T, bias=True)))
        found['input jacobian'].append(torch.einsum('bi,bj->ij', J, J) / len(x))
        found['output jacobian'].append(torch.einsum('bci,bcj->ij', G, G) / len(x))
    return found


def test_one_pixel_is_the_dense_case(net):
    x = pictures(12, 1)
    places = draw_positions(net, x, rng=rng())
    expected = dense(net, x)
    for name, moments in CHANNEL_MEASURES.items():
        for k, M in enumerate(moments(net, x, places)):
            assert torch.allclose(M, expected[name][k].double(), rtol=1e-4, atol=1e-6), (name, k)


def test_positions_are_averaged_after_the_products(net):
    "Each position by itself, then the mean: not the covariance of all positions together"
    x = pictures(30, 8)
    places = draw_positions(net, x, rng=rng())
    for moments in CHANNEL_MEASURES.values():
        whole = moments(net, x[:10], places)
        for k, where in enumerate(places):
            single = [moments(net, x[:10], [*places[:k], one[None], *places[k + 1:]])[k] for one in where[:40:8]]
            few = moments(net, x[:10], [*places[:k], where[:40:8], *places[k + 1:]])[k]
            assert torch.allclose(torch.stack(single).mean(0), few, rtol=1e-6, atol=1e-9)
            assert whole[k].shape == few.shape
    h = at_positions(net.layers(x)[0], places[0]).detach().double().numpy()
    expected = np.mean([np.cov(one.T, bias=True) for one in h], 0)
    assert np.allclose(channel_covariances(net, x, places)[0], expected)
    together = np.cov(h.reshape(-1, h.shape[-1]).T, bias=True)
    assert not np.allclose(expected, together, rtol=.05)


def test_chunks_do_not_matter(net):
    "More images than fit one chunk, against all at once"
    x = pictures(1100, 4)
    places = draw_positions(net, x, rng=rng())
    h = at_positions(net.layers(x)[2], places[2]).detach().double().numpy()
    assert np.allclose(channel_covariances(net, x, places)[2], np.mean([np.cov(one.T, bias=True) for one in h], 0))
    parts = [channel_output_jacobians(net, part, places)[1] for part in x[:120].split(30)]
    assert torch.allclose(channel_output_jacobians(net, x[:120], places)[1], torch.stack(parts).mean(0))


def test_input_jacobian_is_the_one_of_reverse_mode(net):
    x = pictures(3, 8)
    places = draw_positions(net, x, rng=rng())
    for k in (1, 3, 5):
        J = torch.stack([jacrev(lambda v, k=k: at_positions(net.layers(v[None])[k][0], places[k]))(one) for one in x])
        J = J.flatten(3).double()
        expected = torch.einsum('bpid,bpjd->ij', J, J) / (len(x) * len(places[k]))
        assert torch.allclose(channel_input_jacobians(net, x, places)[k], expected, rtol=1e-5, atol=1e-9)


def test_memory_of_input_jacobians_is_that_of_one_image(net):
    "A tangent of a view is as large as everything that the view is of"
    many = pictures(200_000, 8)  # 51 MB, of which 64 tangents would be 3.3 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    channel_input_jacobians(net, many[:1], draw_positions(net, many, rng=rng()))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000


def test_output_jacobian_of_the_pooled_layer_is_in_the_weights(net):
    x, W = pictures(7, 8), net.readout.weight.detach().double()
    M = channel_output_jacobians(net, x, draw_positions(net, x, rng=rng()))[-1]
    assert torch.allclose(M, W.T @ W, atol=1e-6)


def test_probes_estimate_what_all_directions_give(net):
    "Forward and backward: unbiased, and exact where there are as many probes as directions"
    x = pictures(40, 8)
    places = draw_positions(net, x, rng=rng())
    for moments, size, probes in ((channel_input_jacobians, 64, 32), (channel_output_jacobians, 10, 5)):
        exact = moments(net, x, places)
        same, near = (moments(net, x, places, probe_directions(40, size, n, rng=rng())) for n in (size, probes))
        for A, B, C in zip(exact, same, near):
            assert torch.allclose(A, B, rtol=1e-6)
            assert not torch.allclose(A, C) and (A - C).norm() < .5 * A.norm()
    parts = channel_input_jacobians(net, x[:5], places, at_once=7)
    assert all(torch.allclose(A, B, rtol=1e-6) for A, B in zip(parts, channel_input_jacobians(net, x[:5], places)))


def test_probes_are_signs_of_their_own():
    V = probe_directions(3, 10, 4, rng=rng())
    assert V.shape == (3, 4, 10) and (V.abs() == .5).all() and not torch.equal(V[0], V[1])
    assert torch.equal(probe_directions(3, 4, 4, rng=rng()), torch.eye(4).expand(3, -1, -1))


def test_six_associations(net):
    found = channel_associations(net, pictures(40, 8), few=6, rng=rng())
    assert len(found) == 6 and [*found] == [n + s for n in CHANNEL_MEASURES for s in ('', ', normalized')]
    for name, layers in found.items():
        assert [len(A) for A in layers] == WIDTHS
        for A in layers:
            assert A.dtype == torch.float64 and torch.equal(A, A.T) and not A.diagonal().any()
            assert (A >= 0).all() and A.isfinite().all() and A.mean() > 1e-15
            if 'normalized' in name: assert A.max() < 1 + 1e-9


def test_same_seed_same_bits(net):
    def once(seed): return channel_associations(net, pictures(20, 8), few=4, rng=rng(seed))
    one, same, other = once(0), once(0), once(1)
    assert all(torch.equal(a, b) for name in one for a, b in zip(one[name], same[name]))
    assert not torch.equal(one['covariance'][0], other['covariance'][0])


def test_positions_are_drawn_once(net, monkeypatch):
    "The three measures look at the same positions, which no batch changes"
    from modspec.studies.upstream_downstream import convolutional
    seen = []

    def spied(moments):
        def call(net, images, places):
            seen.append(places)
            return moments(net, images, places)
        return call
    spies = {name: spied(moments) for name, moments in CHANNEL_MEASURES.items()}
    monkeypatch.setattr(convolutional, 'CHANNEL_MEASURES', spies)
    monkeypatch.setattr(convolutional, 'channel_covariances', spies['covariance'])
    channel_associations(net, pictures(20, 8), few=4, rng=rng())
    assert len(seen) == 3 and seen[0] is seen[1] is seen[2]


@pytest.mark.parametrize('side', [28, 8])
def test_positions(net, side):
    sizes = [h[0, 0].numel() for h in net.layers(pictures(1, side))]
    for where, size in zip(draw_positions(net, pictures(1, side), rng=rng()), sizes):
        assert len(where) == min(N_POSITIONS, size) == len(where.unique()) and 0 <= where.min() <= where.max() < size


def test_the_absolute_value_is_taken_at_the_end():
    M = torch.tensor([[4., -2.], [-2., 1.]])
    assert channel_association(M, normalized=False).tolist() == [[0, 2], [2, 0]]
    assert channel_association(M, normalized=True).tolist() == [[0, 1], [1, 0]]
    assert not channel_association(torch.zeros(2, 2), normalized=True).any()  # silent channels: 0, not NaN


@pytest.mark.parametrize('few', [0, 21])
def test_more_images_than_there_are(net, few):
    with pytest.raises(ValueError, match=r'few must be a whole number in \[1, 20\]'):
        channel_associations(net, pictures(20, 8), few=few, rng=rng())


def test_two_groups_of_channels_are_found():
    A = torch.block_diag(*[torch.ones(3, 3)] * 2).fill_diagonal_(0).double()
    table = channel_clusters({'made': [A] * 6}, seed=0)
    assert table['layer'].tolist() == [*RESIDUAL_LAYERS]
    assert np.allclose(table['q'], .5) and np.allclose(table['clusters'], 2) and (table['channels'] == 6).all()


# training

def test_training_learns_and_same_seed_same_bits(digits):
    def once(seed, dropout=.1):
        net = init_residual(CHANNELS, seed=0)
        return net, train_residual(net, digits, ConvolutionalTraining(4, dropout=dropout, batch=30), seed=seed)
    state = torch.get_rng_state()
    (net, history), (same, again), (other, _) = once(0), once(0), once(1)
    assert torch.equal(state, torch.get_rng_state())  # nothing is drawn from the shared source
    assert history.equals(again) and history['loss'].iloc[-1] < history['loss'].iloc[0]
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(net.stem.weight, other.stem.weight)


def test_plateau_patience_and_the_best_epoch(digits, monkeypatch):
    "Losses by script: the rate falls after more than 3 epochs without improvement, training ends after 6"
    from modspec.studies.upstream_downstream import convolutional
    losses, states = iter([3., 1., *[2.] * 20]), []

    def scripted(net, images, labels):
        states.append(net.stem.weight.detach().clone())
        return next(losses), .5
    monkeypatch.setattr(convolutional, 'seen_loss', scripted)
    net = init_residual(CHANNELS, seed=0)
    history = train_residual(net, digits, ConvolutionalTraining(batch=100), seed=0)
    assert len(history) == 2 + PATIENCE
    assert history['rate'].tolist() == [1e-3] * 6 + [2.5e-4] * 2
    assert torch.equal(net.stem.weight, states[1]) and not net.training


def test_the_penalty_counts_weights_only():
    net = init_residual(CHANNELS, seed=0)
    expected = sum((w**2).sum() for name, w in net.named_parameters() if 'norm' not in name and 'bias' not in name)
    assert torch.isclose(squared_weights(net), expected)


def test_the_penalty_shrinks_weights(digits):
    sizes = []
    for l2 in (0., .1):
        net = init_residual(CHANNELS, seed=0)
        train_residual(net, digits, ConvolutionalTraining(3, l2=l2, batch=30), seed=0)
        sizes.append(squared_weights(net).item())
    assert sizes[1] < .8 * sizes[0]


@pytest.mark.parametrize('change', [dict(most_epochs=0), dict(dropout=1.), dict(l2=-1), dict(batch=1), dict(rate=-1)])
def test_bad_settings(change):
    with pytest.raises(ValueError, match=f'{[*change][0]} must be'): ConvolutionalTraining(**change)


def test_images_that_are_not_square(digits):
    with pytest.raises(ValueError, match='square, got 60 pixels'):
        square_images(Digits(digits.images[:, :60], digits.labels))


# the table

@pytest.fixture
def table():
    "Made up: a trained network above, among and below three untrained ones"
    rows = [dict(layer=layer, measure='made', trained=k == 0, seed=k, q=q)
            for k, values in enumerate([(.6, .3, .1), (.2, .2, .2), (.4, .4, .4), (.3, .3, .3)])
            for layer, q in zip('abc', values)]
    return pd.DataFrame(rows)


def test_what_training_did(table):
    found = against_untrained(table)
    assert found['training'].tolist() == ['raised', 'neither', 'lowered']
    assert found.loc[('made', 'a')].tolist()[:4] == pytest.approx([.6, .2, .3, .4])


def test_figure(table):
    fig, ax = plt.subplots()
    lines = plot_channel_q(table, 'made', ax).get_lines()
    assert lines[1].get_ydata().tolist() == [.6, .3, .1]
    plt.close(fig)


def test_a_table_of_its_own(digits):
    "One trained network beside untrained ones, of which the first has its first weights"
    small = Dataset('few', digits, Digits(digits.images[:40], digits.labels[:40]))
    table = convolutional_table(small, ConvolutionalTraining(1), few=2, untrained=2)
    assert len(table) == 3 * 6 * 6 and table['trained'].sum() == 36
    assert table['seed'].unique().tolist() == [CONVOLUTIONAL_SEED, CONVOLUTIONAL_SEED + 1]
    assert (table['epochs'] == table['trained']).all() and table['q'].between(-1e-9, 1).all()
