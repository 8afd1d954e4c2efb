"""Best places against a dense Laplacian in numpy and against worse places, units that nothing holds, and the null"""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modspec.measures.wiring import layer_sizes, optimal_placement, wiring_lengths, wiring_measure
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.graph import coordinates, network_blocks

MODEL = FeedForward(8, (16, 8), n_classes=4, activation='tanh')
SETTINGS = SimpleNamespace(wiring_draws=5)
models = st.builds(FeedForward, n_pixels=st.integers(1, 9), layers=st.lists(st.integers(1, 6), min_size=1, max_size=4),
                   n_classes=st.integers(3, 5))


def pruned(model, seeds, share):
    "Networks that lack a share of their weights"
    stack, generator = init_feedforward(model, seeds), torch.Generator().manual_seed(0)
    return replace(stack, weights={name: w * (torch.rand(w.shape, generator=generator) >= share)
                                   for name, w in stack.weights.items()})


def changed(stack, **weights): return replace(stack, weights=stack.weights | weights)


def plain_graph(stack, k):
    "Sizes of all weights of one network between all of its neurons, and how many each layer has"
    sizes = [stack.architecture.n_pixels, *stack.architecture.layers, stack.architecture.n_classes]
    starts, graph = np.cumsum([0, *sizes]), np.zeros((sum(sizes), sum(sizes)))
    for layer, name in enumerate([*(f'W_{i + 1}' for i in range(len(sizes) - 2)), 'W_out']):
        before, here = (slice(*starts[i:i + 2]) for i in (layer, layer + 1))
        graph[here, before] = abs(stack.weights[name][k, 0].double().numpy())
    return graph + graph.T, sizes


def plain_placement(stack, k):
    "The Laplacian of the whole graph; what nothing holds lies at 0, as the pseudo-inverse has it"
    graph, sizes = plain_graph(stack, k)
    L = np.diag(graph.sum(1)) - graph
    first, last = sizes[0], len(L) - sizes[-1]
    fixed = np.r_[0:first, last:len(L)]
    ends = np.concatenate([coordinates(sizes[0]).numpy(), coordinates(sizes[-1]).numpy()])
    r = np.zeros(len(L))
    r[fixed], r[first:last] = ends, -np.linalg.pinv(L[first:last, first:last]) @ L[first:last][:, fixed] @ ends
    total = graph.sum()
    return r, (graph * (r[:, None] - r) ** 2).sum() / total if total else 0.


# coordinates

@pytest.mark.parametrize(('n', 'places'), [
    (1, [0]), (2, [-1, 1]), (3, [-3.5, 0, 3.5]), (4, [-2, -1, 1, 2]), (8, [-3.5, -2.5, -1.5, -.5, .5, 1.5, 2.5, 3.5])])
def test_places_of_layers(n, places): assert coordinates(n).tolist() == places


@settings(deadline=None)
@given(st.integers(1, 300))
def test_places_are_even(n):
    "In order, around 0, of both sides alike"
    x = coordinates(n)
    assert x.shape == (n,) and x.dtype == torch.float64 and (x.diff() > 0).all()
    torch.testing.assert_close(x, -x.flip(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize('n', [0, -1, 2.5, '8'])
def test_no_such_layer(n):
    with pytest.raises(ValueError, match='n must be a whole number'): coordinates(n)


# the best places

@settings(deadline=None, max_examples=30)
@given(models, st.sampled_from([0., .5, .8]), st.integers(0, 99))
def test_places_and_length(model, share, seed):
    "As by the dense Laplacian, pruned networks with loose ends included"
    stack = pruned(model, [seed, seed + 1], share)
    sizes = layer_sizes(network_blocks(stack))
    placed = optimal_placement(sizes)
    for k in range(2):
        r, length = plain_placement(stack, k)
        assert torch.cat([layer[k] for layer in placed]).tolist() == pytest.approx(r.tolist(), abs=1e-6)
        assert wiring_lengths(sizes, placed)[k].item() == pytest.approx(length, abs=1e-6)


@pytest.mark.parametrize('share', [0., .7])
def test_solves_the_system(share):
    "L_HH R_H = -L_HF R_F, for weights of very different sizes too"
    stack = pruned(MODEL, range(5), share)
    stack = changed(stack, W_2=1e-5 * stack.weights['W_2'])
    sizes = layer_sizes(network_blocks(stack))
    placed = torch.cat(optimal_placement(sizes), 1)
    for k in range(5):
        graph, _ = plain_graph(stack, k)
        graph = graph / graph.max()
        residual = (np.diag(graph.sum(1)) - graph) @ placed[k].numpy()
        assert abs(residual[8:-4]).max() < 1e-10


def test_no_other_place_is_better():
    "Near and far, for all or for one unit"
    sizes, generator = layer_sizes(network_blocks(pruned(MODEL, range(5), .3))), torch.Generator().manual_seed(0)
    first, *hidden, last = optimal_placement(sizes)
    best = wiring_lengths(sizes, [first, *hidden, last])
    for amount in (1e-3, .1, 1., 10.):
        for _ in range(10):
            moved = [r + amount * torch.randn(r.shape, generator=generator) for r in hidden]
            assert (wiring_lengths(sizes, [first, *moved, last]) > best).all()
    drawn = [7 * torch.rand(r.shape, generator=generator) - 3.5 for r in hidden]
    assert (wiring_lengths(sizes, [first, *drawn, last]) > best).all()


def test_what_nothing_holds_lies_at_0():
    "A unit without connections, and two that have only each other"
    stack = init_feedforward(MODEL, [0])
    w = {name: stack.weights[name].clone() for name in ('W_1', 'W_2', 'W_out')}
    w['W_1'][..., :2, :], w['W_2'][..., :, :2], w['W_2'][..., 0, :], w['W_out'][..., 0] = 0, 0, 0, 0
    w['W_2'][..., 0, 1] = 2.  # unit 1 of the first layer and unit 0 of the second
    _, one, two, _ = optimal_placement(layer_sizes(network_blocks(changed(stack, **w))))
    assert not one[0, :2].any() and not two[0, 0] and one[0, 2:].all() and two[0, 1:].all()


def test_no_connections():
    "Length 0, as all of its shuffles"
    stack = init_feedforward(MODEL, [0, 1])
    found = wiring_measure(changed(stack, **{name: 0 * w for name, w in stack.weights.items()}), None, SETTINGS)
    for name, value in found.items(): assert (value == (1. if name.endswith('_p') else 0.)).all(), name


@pytest.mark.parametrize('factor', [1e-20, 1e20])
def test_scale_and_numbering_mean_nothing(factor):
    "All weights times one number, and hidden units in another order"
    stack = init_feedforward(MODEL, range(3))
    W, order = stack.weights, torch.randperm(16, generator=torch.Generator().manual_seed(0))
    other = changed(stack, **{name: factor * w for name, w in W.items()})
    other = changed(other, W_1=other.weights['W_1'][:, :, order], W_2=other.weights['W_2'][..., order])
    first, second = (wiring_measure(one, None, SETTINGS)['wiring_length'] for one in (stack, other))
    torch.testing.assert_close(first, second, rtol=1e-5, atol=0)


# the null

def test_networks_by_themselves():
    "Each with draws of its own, whatever else is in the stack"
    stack = pruned(MODEL, [3, 4, 3], .5)
    together = wiring_measure(stack, None, SETTINGS)
    for k in range(3):
        for name, value in wiring_measure(stack[k], None, SETTINGS).items():
            torch.testing.assert_close(value, together[name][k:k + 1], rtol=1e-9, atol=0)


def test_towers_are_short():
    "Two halves that never meet: shorter than all of their shuffles; untrained networks are among theirs"
    stack = init_feedforward(MODEL, range(30))
    same = {name: (torch.arange(n)[:, None] < n // 2) == (torch.arange(m) < m // 2)
            for name, (n, m) in dict(W_1=(16, 8), W_2=(8, 16), W_out=(4, 8)).items()}
    divided = changed(stack, **{name: stack.weights[name] * mask for name, mask in same.items()})
    settings = SimpleNamespace(wiring_draws=20)
    assert (wiring_measure(divided, None, settings)['wiring_length_layer_p'] < 1.5 / 21).all()
    p = wiring_measure(stack, None, settings)['wiring_length_layer_p']
    assert p.mean().item() == pytest.approx(.5, abs=.2)


def test_one_line_at_most():
    "Hidden units lie between the ends, so no connection is longer than the line"
    found = wiring_measure(pruned(MODEL, range(20), .6), None, SETTINGS)['wiring_length']
    assert ((found > 0) & (found < 49)).all()


@pytest.mark.parametrize('name', ['W_1', 'W_2', 'W_out'])
@pytest.mark.parametrize('bad', [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers(name, bad):
    stack = init_feedforward(MODEL, [5, 6])
    w = stack.weights[name].clone()
    w[1, 0, 1, 1] = bad
    with pytest.raises(ValueError, match=r'network 1 \(seed 6\)'):
        wiring_measure(changed(stack, **{name: w}), None, SETTINGS)
