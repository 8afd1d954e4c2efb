"""Sides of the retina against loops over patterns and paths, towers, permuted pixels, chance, and what is refused"""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modspec.measures.sides import (
    patterns,
    product_power,
    side_indices,
    side_measure,
    side_variances,
    split_indices,
    splits,
)
from modspec.networks.choices import ACTIVATIONS
from modspec.networks.feedforward import FeedForward, init_feedforward

MODEL = FeedForward(8, (16, 8), n_classes=2, activation='tanh')
models = st.builds(FeedForward, n_pixels=st.just(8), n_classes=st.just(2), activation=st.sampled_from(ACTIVATIONS),
                   layers=st.lists(st.integers(1, 5), min_size=1, max_size=3))


def lively_layers(model, seeds, gain=4.):
    "Random networks with weights large enough for tanh to bend"
    stack = init_feedforward(model, seeds)
    return replace(stack, weights={name: gain * w for name, w in stack.weights.items()})


def changed(stack, **weights): return replace(stack, weights=stack.weights | weights)


def towers(stack):
    "No weight of a hidden layer from one half to the other"
    weights = dict(stack.weights)
    for layer in range(1, len(stack.architecture.layers) + 1):
        rows, columns = weights[f'W_{layer}'].shape[2:]
        same = (torch.arange(rows)[:, None] < rows // 2) == (torch.arange(columns) < columns // 2)
        weights[f'W_{layer}'] = weights[f'W_{layer}'] * same
    return replace(stack, weights=weights)


def plain_states(stack, k, x):
    "States of one network, in float64 and pattern by pattern: (patterns, units of all layers)"
    activate = dict(relu=lambda z: np.maximum(z, 0), tanh=np.tanh, linear=lambda z: z)[stack.architecture.activation]
    w, states = {name: v[k, 0].double().numpy() for name, v in stack.weights.items()}, []
    for pattern in x:
        h, units = pattern, []
        for layer in range(1, len(stack.architecture.layers) + 1):
            h = activate(w[f'W_{layer}'] @ h + w[f'b_{layer}'])
            units.append(h)
        states.append(np.concatenate(units))
    return np.array(states)


def plain_indices(stack, k, A):
    "The definitions, for one network and one split, over a table of 16 x 16 patterns made for it"
    B = [i for i in range(8) if i not in A]
    side = np.array([[1 if u >> j & 1 else -1 for j in range(4)] for u in range(16)])
    x = np.zeros((16, 16, 8))
    x[..., list(A)], x[..., B] = side[:, None], side[None]
    a = plain_states(stack, k, x.reshape(256, 8)).T.reshape(-1, 16, 16)
    V, V_A, V_B = a.var((1, 2)), a.mean(2).var(1), a.mean(1).var(1)
    apart, both = 0., 0.
    f = {side: np.array([i in pixels for i in range(8)]) * 1. for side, pixels in dict(A=A, B=B).items()}
    for layer in range(1, len(stack.architecture.layers) + 1):
        f = {side: abs(stack.weights[f'W_{layer}'][k, 0].double().numpy()) @ of for side, of in f.items()}
        apart, both = apart + abs(f['A'] - f['B']).sum(), both + (f['A'] + f['B']).sum()
    lean = np.divide(abs(V_A - V_B), V_A + V_B, out=np.zeros_like(V), where=V_A + V_B > 1e-20)
    if V.sum() < 1e-20: return dict(si=apart / both, fi=0., int=0.)
    return dict(si=apart / both, fi=(V * lean).sum() / V.sum(), int=1 - (V_A + V_B).sum() / V.sum())


# patterns and splits

def test_patterns():
    "Row k is k in binary, pixel 0 first, coded -1 and +1"
    expected = [[2 * int(bit) - 1 for bit in f'{k:08b}'] for k in range(256)]
    assert patterns().tolist() == expected and patterns().dtype == torch.float64


def test_splits():
    "Each balanced split once, by the side of pixel 0; the true one first"
    assert len(splits()) == len({*splits()}) == 35 and splits()[0] == (0, 1, 2, 3)
    assert all(A[0] == 0 and len({*A}) == 4 and {*A} <= {*range(8)} for A in splits())


# the indices

@settings(deadline=None, max_examples=25)
@given(models, st.sampled_from(splits()), st.integers(0, 999))
def test_definitions(model, A, seed):
    "SI, FI and INT by loops, for any split, layers and activation"
    stack = lively_layers(model, [seed, seed + 1])
    found = side_indices(stack, A)
    for k in range(2):
        for name, value in plain_indices(stack, k, A).items():
            assert found[name][k].item() == pytest.approx(value, abs=1e-9)
            assert 0 <= found[name][k] <= 1


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_variances_add_up(activation):
    "V = V_A + V_B + V_AB, none below 0, for all 35 splits"
    stack = lively_layers(replace(MODEL, activation=activation), range(5))
    V = torch.tensor(np.array([plain_states(stack, k, patterns().numpy()).var(0) for k in range(5)]))
    parts = side_variances(stack, splits())
    assert all((part >= 0).all() and part.shape == (5, 24, 35) for part in parts)
    torch.testing.assert_close(sum(parts), V[..., None].expand(-1, -1, 35), rtol=0, atol=1e-6)
    torch.testing.assert_close(sum(parts), V[..., None].expand(-1, -1, 35), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_towers(activation):
    "1, 1 and 0, exactly; and the true split is the only one with them"
    stack = towers(lively_layers(replace(MODEL, activation=activation), range(20)))
    found = split_indices(stack, splits())
    assert (found['si'][0] == 1).all() and (found['fi'][0] == 1).all() and not found['int'][0].any()
    assert (found['si'][1:] < 1).all() and (found['fi'][1:] < 1).all()


def test_permuted_pixels():
    "are the permuted split, in all values"
    stack, generator = lively_layers(MODEL, range(4)), torch.Generator().manual_seed(0)
    for A in splits()[::6]:
        order = torch.randperm(8, generator=generator)
        permuted = changed(stack, W_1=stack.weights['W_1'][..., order])
        new, old = side_indices(permuted, A), side_indices(stack, tuple(order[list(A)].tolist()))
        for name in new: torch.testing.assert_close(new[name], old[name], rtol=0, atol=1e-12)


def test_side_and_other_side():
    "are one split, and the order of its pixels means nothing"
    stack = lively_layers(MODEL, range(3))
    first = side_indices(stack, (0, 1, 2, 3))
    for other in ((4, 5, 6, 7), (2, 0, 3, 1)):
        for name, value in side_indices(stack, other).items():
            torch.testing.assert_close(value, first[name], rtol=0, atol=1e-12)


def test_networks_by_themselves():
    "Each as if it were alone"
    stack = lively_layers(MODEL, range(4))
    together = side_measure(stack, None, None)
    for k in range(4):
        for name, value in side_measure(stack[k], None, None).items():
            torch.testing.assert_close(value, together[name][k:k + 1], rtol=1e-9, atol=1e-12)


# what is not there

def test_no_weights():
    "No weights, no variance: 0 everywhere, and no split is before another"
    stack = init_feedforward(MODEL, [0, 1])
    nothing = changed(stack, **{name: 0 * w for name, w in stack.weights.items() if name[0] == 'W'})
    found = side_measure(nothing, None, None)
    for name, value in found.items(): assert (value == (1. if name.endswith('_p') else 0.)).all(), name


@pytest.mark.parametrize('bias', [.1, 1 / 3, 1e3])
def test_units_that_never_vary(bias):
    "Rounding is no variance, whatever the state is and whatever later layers make of it"
    stack = lively_layers(MODEL, range(10))
    still = changed(stack, W_1=0 * stack.weights['W_1'], b_1=bias * stack.weights['b_1'])
    assert not product_power(still)[..., 1:].any()
    found = side_indices(still)
    assert not found['fi'].any() and not found['int'].any()


def test_pure_interaction():
    "A unit that multiplies two pixels of different sides: no side, all interaction, for odd weights too"
    stack = init_feedforward(FeedForward(8, (2, 1), n_classes=2, activation='relu'), [0])
    W = torch.zeros(1, 1, 2, 8)
    W[..., 0, [1, 6]], W[..., 1, [1, 6]] = 1e-7 / 3, -1e-7 / 3
    stack = changed(stack, W_1=W, W_2=torch.full((1, 1, 1, 2), 7e7), b_1=torch.zeros(1, 1, 2),
                    b_2=torch.full((1, 1, 1), .1))
    found = side_indices(stack)
    assert found['int'].item() == pytest.approx(1) and found['fi'].item() == pytest.approx(0, abs=1e-9)
    v_a, v_b, v_ab = (part[0, 2, 0].item() for part in side_variances(stack, splits()[:1]))
    assert v_a == v_b == 0 and v_ab > 1
    other = side_indices(stack, (0, 1, 2, 6))  # where both pixels are on one side
    assert other['int'].item() == 0 and other['fi'].item() == pytest.approx(1)


# against chance

def test_chance():
    "The true split of an untrained network is first in one of 35"
    found = side_measure(init_feedforward(MODEL, range(200)), None, None)
    for name in ('si', 'fi', 'int'):
        first = (found[f'{name}_splits_p'] < 1.5 / 35).double().mean().item()
        assert first == pytest.approx(1 / 35, abs=.03), name


def test_null():
    "is the 34 others: mean, deviation, and rank among 35; for INT the lowest is first"
    stack = lively_layers(MODEL, range(6))
    found = side_measure(stack, None, None)
    for k in range(6):
        values = {name: [plain_indices(stack, k, A)[name] for A in splits()] for name in ('si', 'fi', 'int')}
        for name, (true, *others) in values.items():
            before = sum(other <= true if name == 'int' else other >= true for other in others)
            assert found[name][k].item() == pytest.approx(true, abs=1e-9)
            assert found[f'{name}_splits_mean'][k].item() == pytest.approx(np.mean(others), abs=1e-9)
            assert found[f'{name}_splits_sd'][k].item() == pytest.approx(np.std(others, ddof=1), abs=1e-9)
            assert found[f'{name}_splits_p'][k].item() == pytest.approx((1 + before) / 35)


# refused

@pytest.mark.parametrize('A', [(0, 1, 2), (0, 1, 2, 2), (0, 1, 2, 8), (-1, 0, 1, 2), (0, 1, 2, 3, 4), ()])
def test_other_sides(A):
    with pytest.raises(ValueError, match='side'): side_indices(init_feedforward(MODEL, [0]), A)


def test_other_networks():
    with pytest.raises(ValueError, match='8 pixels'): side_indices(init_feedforward(FeedForward(9, (4,)), [0]))


@pytest.mark.parametrize('name', ['W_1', 'b_1', 'W_2', 'b_2'])
@pytest.mark.parametrize('bad', [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(name, bad):
    "The network is named; an infinite bias alone makes a unit of tanh still, and stays"
    stack = lively_layers(MODEL, [5, 6])
    w = stack.weights[name].clone()
    w[1, 0, 0] = bad
    if name[0] == 'b' and bad == torch.inf:
        assert all(value.isfinite().all() for value in side_indices(changed(stack, **{name: w})).values())
        return
    with pytest.raises(ValueError, match=r'network 1 \(seed 6\)'): side_indices(changed(stack, **{name: w}))
