"""Associations of units against automatic derivatives, and by networks that can be worked out on paper"""
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jacrev, vmap

from modspec.core.data import Dataset, Digits
from modspec.core.registry import entries
from modspec.core.streams import generators
from modspec.engine.measure import applies, has, tidy
from modspec.engine.plan import study_named
from modspec.measures.associations import (
    ASSOCIATIONS,
    DOWNSTREAM,
    UPSTREAM,
    as_associations,
    associations,
    dead_units,
    layer_modules,
    outputs_from,
    partitions,
    slopes,
    without_units,
)
from modspec.measures.communities import maximize, modularity
from modspec.measures.modules import shuffled_layers, unit_modules
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.training.parameters import LayeredTraining, make_parameters

OFFERS = 'layers', 'modules'
RAW = *UPSTREAM, *DOWNSTREAM


def exact(stack):
    "The same networks in double precision"
    return replace(stack, weights={name: w.double() for name, w in stack.weights.items()})


def drawn(layers=(6, 5, 4), n_classes=3, activation='relu', seeds=(0, 1, 2), n_pixels=7, gain=2.):
    return exact(init_feedforward(FeedForward(n_pixels, layers, n_classes, activation), seeds, gain=gain))


def examples(n=40, n_pixels=7, n_classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, n_pixels, generator=g, dtype=torch.double) * 2 - 1
    return x, torch.randint(n_classes, (n,), generator=g)


def by_hand(W_1, W_out, activation='linear', **more):
    "One network of one hidden layer without biases"
    W_1, W_out = (torch.as_tensor(W).double() for W in (W_1, W_out))
    stack = drawn((len(W_1),), len(W_out), activation, seeds=(0,), n_pixels=W_1.shape[1])
    weights = {name: torch.zeros_like(w) for name, w in stack.weights.items()}
    weights |= dict(W_1=W_1[None, None], W_out=W_out[None, None]) | more
    return replace(stack, weights=weights)


def by_definition(network, x, y, layer):
    "The means over the examples, every derivative by torch.func"
    model, weights = network.architecture, network.weights
    def state(x): return [*model.states(weights, model.drive(weights, x[None, None, None]))][layer - 1].flatten()
    def answer(h): return outputs_from(network, h[None, None], layer).flatten()
    def loss(h, target): return F.cross_entropy(answer(h)[None], target[None])
    h, J = vmap(state)(x), vmap(jacrev(state))(x)
    G, H = vmap(jacrev(answer))(h), vmap(jacrev(grad(loss)))(h, y)
    return dict(input_covariance=h.T.cov(correction=0), input_jacobian=(J @ J.mT).mean(0),
                output_jacobian=(G.mT @ G).mean(0), output_hessian=H.mean(0))


def off(M): return M - torch.diag(M.diagonal())


def ecs(a, b):
    "Element-centric similarity of two divisions"
    sizes = np.array([[((a == u) & (b == v)).sum() for v in np.unique(b)] for u in np.unique(a)])
    return (sizes**2 / np.maximum(sizes.sum(1)[:, None], sizes.sum(0))).sum() / len(a)


# against automatic derivatives

@pytest.mark.parametrize('activation', ['relu', 'tanh', 'linear'])
@pytest.mark.parametrize('n_classes', [2, 3])
@pytest.mark.parametrize('layer', [1, 2, 3])
def test_against_definition(activation, n_classes, layer):
    "T14: the closed forms, of every layer, and with a single read-out"
    stack, (x, y) = drawn(activation=activation, n_classes=n_classes), examples(230, n_classes=n_classes)
    found = associations(stack, x, y, layer=layer)
    for k in range(3):
        slow = as_associations({name: M[None] for name, M in by_definition(stack[k], x, y, layer).items()})
        for name in ASSOCIATIONS: torch.testing.assert_close(found[name][k], slow[name][0], rtol=1e-5, atol=1e-9)


def test_in_single_precision():
    stack, (x, y) = init_feedforward(FeedForward(64, (64, 64)), [0]), examples(500, 64, 10)
    for layer in (1, 2):
        single = associations(stack, x.float(), y, layer=layer)
        double = associations(exact(stack), x, y, layer=layer)
        for name in RAW:
            assert single[name].dtype == torch.double
            torch.testing.assert_close(single[name], double[name], rtol=1e-3, atol=1e-5 * double[name].max().item())


def test_form():
    "Not negative, symmetric, without a diagonal; the same numbers alone, and whatever the examples' order"
    stack, (x, y) = drawn(), examples(130)
    for layer, n in ((1, 6), (2, 5), (3, 4)):
        found = associations(stack, x, y, layer=layer)
        assert [*found] == [*ASSOCIATIONS]
        for name, A in found.items():
            assert A.shape == (3, n, n) and A.dtype == torch.double and (A >= 0).all()
            assert torch.equal(A, A.mT) and not A.diagonal(dim1=1, dim2=2).any()
            if name.endswith('normalized'): assert (A <= 1 + 1e-9).all()
        alone, order = associations(stack[1], x, y, layer=layer), torch.randperm(130)
        other = associations(stack, x[order], y[order], layer=layer)
        for name, A in found.items():
            torch.testing.assert_close(alone[name][0], A[1], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(other[name], A, rtol=1e-9, atol=1e-12)


def test_inputs_stay_as_they_are():
    stack, (x, y) = drawn(), examples()
    before, fresh = x.clone(), drawn()
    associations(stack, x, y, layer=2)
    assert torch.equal(x, before) and all(torch.equal(w, fresh.weights[name]) for name, w in stack.weights.items())


def test_hessian():
    "T15: of a ReLU network without negative eigenvalues or knowledge of the answer; of tanh so behind the last layer"
    for activation, layer, same in (('relu', 1, True), ('relu', 2, True), ('tanh', 1, False), ('tanh', 3, True)):
        stack, (x, y) = drawn(activation=activation, gain=4.), examples()
        first, second = (associations(stack, x, target, layer=layer) for target in (y, (y + 1) % 3))
        assert torch.allclose(first['output_hessian'], second['output_hessian'], rtol=1e-12, atol=1e-15) == same
        if activation == 'relu':
            M = by_definition(stack[0], x, y, layer)['output_hessian']
            assert torch.linalg.eigvalsh(M).min() > -1e-6


def test_absolute_value_after_the_mean():
    "Effects that are opposite on the two halves of the examples cancel"
    W = dict(W_1=torch.eye(4), W_2=torch.tensor([[1., 1, 9, 0], [1, -1, 0, 9]]),
             W_out=torch.tensor([[1., 1], [0, 0], [0, 0]]))
    stack = drawn((4, 2), seeds=(0,), n_pixels=4)
    weights = {name: torch.zeros_like(w) for name, w in stack.weights.items()}
    weights |= {name: w[None, None].double() for name, w in W.items()}
    weights['b_2'] = weights['b_2'] - 5
    x, y = torch.tensor([[.5, .4, 1, 0], [.5, .4, 0, 1]]).double(), torch.tensor([0, 1])
    stack = replace(stack, weights=weights)
    for one in range(2):
        A = associations(stack, x[one:one + 1], y[one:one + 1], layer=1)
        assert A['output_jacobian'][0, 0, 1] == 1
    assert associations(stack, x, y, layer=1)['output_jacobian'][0, 0, 1] == 0


def test_slopes():
    h = torch.tensor([-.5, 0, .5]).double().requires_grad_()
    z = h.atanh()
    slope, = torch.autograd.grad(z.tanh().sum(), z)
    torch.testing.assert_close(slopes(h, 'tanh'), slope)
    assert slopes(h.detach(), 'relu').tolist() == [0, 0, 1] and slopes(h.detach(), 'linear').tolist() == [1, 1, 1]


# networks that can be worked out on paper

def test_linear_network():
    "T12 and T13: W S W^T within 2 %, W W^T and W_out^T W_out exactly"
    g = torch.Generator().manual_seed(0)
    W_1, W_out, root = (torch.randn(*shape, generator=g).double() for shape in ((5, 4), (3, 5), (4, 4)))
    stack = by_hand(W_1, W_out)
    white = torch.randn(100_000, 4, generator=g).double()
    for x, S in ((white @ root.T, root @ root.T), (white, torch.eye(4).double())):
        found = associations(stack, x, torch.zeros(len(x), dtype=torch.int64), layer=1)
        wanted = off(W_1 @ S @ W_1.T).abs()
        torch.testing.assert_close(found['input_covariance'][0], wanted, rtol=0, atol=.02 * wanted.max().item())
        torch.testing.assert_close(found['input_jacobian'][0], off(W_1 @ W_1.T).abs(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found['output_jacobian'][0], off(W_out.T @ W_out).abs(), rtol=1e-12, atol=1e-12)


def two_networks():
    "Two sub-networks with pixels, units and classes of their own, and all pairs of what they may see"
    stack, parts = drawn((8, 6), 4, n_pixels=6, seeds=(0, 1)), dict(W_1=(4, 3), W_2=(3, 4), W_out=(2, 3))
    for name, (rows, columns) in parts.items():
        stack.weights[name][:, :, :rows, columns:] = stack.weights[name][:, :, rows:, :columns] = 0
    seen = examples(9, 3)[0]
    x = torch.cat([seen.repeat_interleave(9, 0), seen.repeat(9, 1)], 1)
    return stack, x, torch.zeros(81, dtype=torch.int64)


@pytest.mark.parametrize(('layer', 'half'), [(1, 4), (2, 3)])
def test_two_networks(layer, half):
    "T16: no measure but the Hessian, which a softmax over all classes joins, sees anything between the two"
    A = associations(*two_networks(), layer=layer)
    group = torch.arange(2 * half) // half
    between = group[:, None] != group
    for name, graphs in A.items():
        if name.startswith('output_hessian'):
            assert (graphs[:, between] > 1e-9).any()
            continue
        assert graphs[:, between].max() < 1e-12 < graphs[:, ~between].max()
        for graph in graphs * ~between:
            labels, q = maximize(graph, seed=0)
            assert not {*labels[group == 0]} & {*labels[group == 1]} - {-1}
            shares = [graph[group == g].sum() / graph.sum() for g in (0, 1)]
            split, apart = modularity(graph, group), 1 - sum(share**2 for share in shares).item()
            assert split == pytest.approx(apart, abs=1e-12) and q >= split - 1e-12


def test_modular_twice():
    "T17: perfectly modular upstream and downstream, and no agreement"
    kind = torch.arange(32) % 4
    stack = by_hand(F.one_hot(kind // 2, 2), F.pad(F.one_hot(kind % 2, 2).T, (0, 0, 0, 1)))
    square = torch.tensor([[0., 0], [0, 1], [1, 0], [1, 1]]).double()
    A = associations(stack, square, torch.zeros(4, dtype=torch.int64), layer=1)
    modules = layer_modules(A, [0])
    for name, labels in modules.items():
        if 'hessian' in name: continue
        assert modularity(A[name][0], labels[0]) == pytest.approx(.5, abs=1e-12)
        same = kind // 2 if name in (*UPSTREAM, *(f'{one}_normalized' for one in UPSTREAM)) else kind % 2
        assert ecs(labels[0].numpy(), same.numpy()) == pytest.approx(1)
    up, down = (modules[name][0].numpy() for name in ('input_jacobian', 'output_jacobian'))
    assert ecs(up, down) == pytest.approx(.5, abs=1e-12)


def test_rescaled_units():
    "T18: units that are c times as active and send 1/c of it: the same function, and the same normalized measures"
    stack, (x, y) = drawn((6, 5), seeds=(0,)), examples()
    c = torch.tensor([.1, 2, 1, 5, .7, 3]).double()
    weights = dict(stack.weights)
    weights['W_1'], weights['b_1'] = weights['W_1'] * c[:, None], weights['b_1'] * c
    weights['W_2'] = weights['W_2'] / c
    before, after = (associations(s, x, y, layer=1) for s in (stack, replace(stack, weights=weights)))
    for name in ASSOCIATIONS:
        close = torch.allclose(before[name], after[name], rtol=1e-9, atol=1e-12)
        assert close == name.endswith('normalized'), name


def test_dead_unit():
    "T19: nothing upstream, something downstream; and how it is left out"
    stack, (x, y) = drawn((6, 5)), examples()
    stack.weights['b_1'][1, 0, 2] = -1e3
    stack.weights['b_1'][2, 0, 3] = 1e3  # active on all
    dead, A = dead_units(stack, x, layer=1), associations(stack, x, y, layer=1)
    assert dead[1, 2] and not dead[2, 3] and dead[0].sum() < 6
    for name in ASSOCIATIONS: assert A[name][1, 2].any() == name.startswith('output')
    modules = layer_modules(A, stack.seeds, 2)
    assert all((modules[name][1, 2] == -1) == name.startswith('input') for name in ASSOCIATIONS)
    dropped = {how: without_units(A, dead, how) for how in ('none', 'upstream', 'all')}
    for name in ASSOCIATIONS:
        assert torch.equal(dropped['none'][name], A[name]) and torch.equal(dropped['upstream'][name], A[name])
        assert not dropped['all'][name][1, 2].any() and not dropped['all'][name][1, :, 2].any()
        rest = ~dead[1]
        assert torch.equal(dropped['all'][name][1][rest][:, rest], A[name][1][rest][:, rest])
    assert all((found[1, 2] == -1) for found in layer_modules(dropped['all'], stack.seeds, 2).values())
    with pytest.raises(ValueError, match="drop_dead must be one of .*got 'some'"): without_units(A, dead, 'some')


def test_constant_unit():
    "A unit that is always the same has nothing to do with any other, whatever rounding makes of its variance"
    stack, (x, y) = drawn((6, 5)), examples(300)
    stack.weights['W_1'][0, 0, 1], stack.weights['b_1'][0, 0, 1] = 0, .1
    A = associations(stack, x, y, layer=1)
    for name in ('input_covariance', 'input_jacobian', 'input_covariance_normalized'): assert not A[name][0, 1].any()
    assert not dead_units(stack, x, layer=1)[0, 1]


# modules, and the measure

def small_data(n=60):
    g = torch.Generator().manual_seed(0)
    part = Digits(torch.randint(256, (n, 7), generator=g).to(torch.uint8), torch.arange(n) % 10)
    return Dataset('made up', part, part)


def layered(seeds=(0, 1)):
    return init_feedforward(FeedForward(7, (6, 5)), list(seeds), gain=3.)


def settings(**changed): return make_parameters(changed, LayeredTraining, OFFERS)


def test_measure():
    "Values as declared, the same alone and again; without draws no null"
    about, data, how = entries('measure')['associations'].about, small_data(), settings(module_trials=3, module_draws=3)
    values = unit_modules(layered(), data, how)
    assert {*values} == {*about['values']}
    for name, array in values.items():
        low, high = about['values'][name].get('range', [-1e3, 6])  # transfer has no lower bound
        shape = (2, 2, *[8] * ('against' in about['values'][name]['axes']))
        assert array.shape == shape and (array >= low - 1e-12).all() and (array <= high + 1e-12).all(), name
    again, alone = unit_modules(layered(), data, how), unit_modules(layered()[1], data, how)
    for name, array in values.items():
        assert torch.equal(array, again[name])
        torch.testing.assert_close(alone[name], array[1:], rtol=0, atol=1e-3)
    plain = unit_modules(layered(), data, settings(module_trials=3))
    assert {*plain} == {name for name in values if '_shuffled_' not in name}
    assert all(torch.equal(plain[name], values[name]) for name in plain)
    axes, names = {name: about['values'][name]['axes'] for name in plain}, dict.fromkeys(plain, about['against'])
    table = tidy(plain, axes, [0, 1], epoch=0, against=names)
    assert {*table['layer']} == {0, 1} and len(table) == 2 * 2 * (17 + 5 * 8 * 8)
    with pytest.raises(ValueError, match='module_draws must be 0 or at least 2, got 1'):
        unit_modules(layered(), data, settings(module_draws=1))


def test_values_of_a_layer():
    "Q and clusters are those of the divisions found"
    stack, data = layered(), small_data()
    values = unit_modules(stack, data, settings(module_trials=3))
    x = data.test.images.float() / 255
    for layer, (A, modules, dead) in enumerate(partitions(stack, x, data.test.labels, trials=3)):
        assert torch.equal(values['dead_units'][:, layer], dead.sum(1).double())
        for name in ASSOCIATIONS:
            for k in range(2):
                q = modularity(A[name][k], modules[name][k])
                assert values[f'q_{name}'][k, layer] == pytest.approx(q, abs=1e-9)


def test_nothing_there():
    "Networks whose layers are all dead: no edge, no Q, no modules"
    stack = layered()
    stack = replace(stack, weights={name: torch.zeros_like(w) for name, w in stack.weights.items()})
    values = unit_modules(stack, small_data(), settings(module_trials=1))
    assert (values.pop('dead_units') == torch.tensor([6., 5])).all()
    assert not any(array.any() for array in values.values())


def test_shuffled_layers():
    "The same weights in every matrix at other places; each network's own draw"
    stack = layered()
    one, two = (shuffled_layers(s, generators(s.seeds, 'test')) for s in (stack, stack[1]))
    for name, w in stack.weights.items():
        assert torch.equal(one.weights[name].flatten(1).sort(1)[0], w.flatten(1).sort(1)[0])
        assert torch.equal(one.weights[name], w) == name.startswith('b_')
        assert torch.equal(one.weights[name][1:], two.weights[name])


def test_where_it_is_measured():
    "In a study that offers modules, on networks of layers"
    entry = entries('measure')['associations']
    assert 'modules' in has(layered()) and 'modules' not in has(init_stack(Recurrent(7), [0], 1.))
    study = study_named('upstream_downstream')
    for offers, there in ((OFFERS, True), (('layers', 'graph'), False)):
        assert applies(entry, layered(), replace(study, offers=offers)) == there


def test_evaluation_knows_no_dropout():
    "T20: dropout is a matter of training; what is measured is the whole network"
    a, b = settings(), settings(dropout=.5)
    for name, value in unit_modules(layered(), small_data(), replace(a, module_trials=1)).items():
        assert torch.equal(value, unit_modules(layered(), small_data(), replace(b, module_trials=1))[name])


# refused

def bad(layer=1, x=None, y=None, stack=None):
    good = examples()
    return associations(drawn() if stack is None else stack, good[0] if x is None else x,
                        good[1] if y is None else y, layer=layer)


@pytest.mark.parametrize(('change', 'message'), [
    (dict(layer=0), 'layer must be a whole number in .1, 3., got 0'),
    (dict(layer=4), 'layer must be a whole number in .1, 3., got 4'),
    (dict(layer=1.), 'layer must be a whole number'),
    (dict(y=torch.full((40,), 3)), 'targets must be in 0..2, got 3'),
    (dict(y=torch.full((40,), -1)), 'targets must be in 0..2, got -1'),
    (dict(y=torch.zeros(39, dtype=torch.int64)), 'one for each of the 40 examples'),
    (dict(y=torch.zeros(40)), 'targets must be whole numbers'),
    (dict(x=torch.zeros(40, 6)), r'inputs must be floats \(examples, 7\), got torch.float32 of shape \(40, 6\)'),
    (dict(x=torch.zeros(40, 7, dtype=torch.uint8)), 'inputs must be floats'),
    (dict(x=torch.zeros(0, 7), y=torch.zeros(0, dtype=torch.int64)), 'each of the 0 examples'),
    (dict(stack=drawn((1, 3))), 'layer 1 must have at least 2 units, got 1'),
    (dict(stack=init_stack(Recurrent(7), [0], 1.)), 'associations need layers, got Recurrent'),
])
def test_refused(change, message):
    with pytest.raises(ValueError, match=message): bad(**change)


@pytest.mark.parametrize('name', ['W_1', 'b_1', 'W_2', 'W_3', 'W_out', 'b_out'])
def test_weights_that_are_nan(name):
    stack = drawn()
    w = stack.weights[name][1]
    w[tuple(w.nonzero()[0])] = torch.nan
    with pytest.raises(ValueError, match=r'network 1 \(seed 1\): an association is not finite'): bad(1, stack=stack)
