"""Sides of the digits against least squares in numpy, hand-made units, the null, and what is refused"""
import numpy as np
import pytest
import torch

from modspec.core.data import Dataset, Digits, load_dataset
from modspec.core.tasks import held_out_pairs
from modspec.measures.digit_sides import cell_means, digit_cells, digit_indices, digit_sides, digit_variances
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.networks.stack import last_state
from modspec.training.loop import gather_batch

DIGITS = load_dataset('digits')
MODEL = Recurrent(64, n_hidden=6)
CELLS = digit_cells()


def effects(seed, *shape):
    "Any value for each of ten digits"
    return torch.randn(*shape, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain_parts(m):
    "One unit: the additive model by numpy's least squares, with a constant of its own"
    d = CELLS.numpy()
    X = np.concatenate([np.ones((80, 1)), np.eye(10)[d[:, 0]], np.eye(10)[d[:, 1]]], 1)
    fit = np.linalg.lstsq(X, m, rcond=None)[0]
    return m.var(), fit[1:11][d[:, 0]].var(), fit[11:][d[:, 1]].var(), (m - X @ fit).var()


def test_cells():
    "80, in order, each once: d1 - d0 is neither 0 nor 1, in a circle of ten"
    assert CELLS.tolist() == [[a, b] for a in range(10) for b in range(10) if (b - a) % 10 not in (0, 1)]


def test_parts():
    "As by least squares, for units of any mean and size; fit and residual add up to the variance"
    means = 1e3 + torch.tensor([[1e-3], [1.], [1e3]]) * effects(0, 3, 8).flatten(1)
    found = torch.stack(digit_variances(means))
    for unit in range(3):
        expected = plain_parts(means[unit].numpy())
        assert found[:, unit].tolist() == pytest.approx(expected, rel=1e-6)
    assert (found >= 0).all() and (found[3] <= found[0]).all()


def test_additive_units_have_no_interaction():
    "Any effects of both digits, any constant; their variances are those of the effects"
    a, b = effects(1, 20), effects(2, 20)
    V, v_a, v_b, v_ab = digit_variances(a[:, CELLS[:, 0]] + b[:, CELLS[:, 1]] + 3.)
    assert not v_ab.any() and (V > 0).all()
    torch.testing.assert_close(v_a, a.var(1, correction=0))
    torch.testing.assert_close(v_b, b.var(1, correction=0))


@pytest.mark.parametrize('place', [0, 1])
def test_one_digit(place):
    "FI 1 and INT 0 for units of one digit, exactly"
    found = digit_indices(effects(3, 2, 2, 5)[..., CELLS[:, place]])
    assert (found['digit_fi'] == 1).all() and not found['digit_int'].any()


def test_interaction():
    "Whether parities agree is nothing but interaction; a unit that never varies is nothing"
    agree = (CELLS.sum(1) % 2).double().expand(1, 1, 1, -1)
    found = digit_indices(agree)
    assert found['digit_int'].item() == pytest.approx(1) and found['digit_fi'].item() == 0
    for still in (torch.zeros(1, 2, 3, 80), torch.full((1, 2, 3, 80), .1)):
        assert not any(value.any() for value in digit_indices(still.double()).values())


def test_means():
    "Of the last state over the held-out pairs of each cell, by a loop"
    stack, pairs = init_stack(MODEL, [0, 1], [.1, 1.]), held_out_pairs(DIGITS.test)[None]
    x, shown = gather_batch(DIGITS.test, pairs)
    h, found = last_state(MODEL, stack.weights, x), cell_means(stack, DIGITS)
    for cell, digits in enumerate(CELLS):
        here = (shown[0] == digits).all(1)
        torch.testing.assert_close(found[..., cell], h[..., here].double().mean(3), rtol=0, atol=1e-6)


def test_networks_by_themselves():
    "Each with draws of its own; values in their range; the null is that of digits that mean nothing"
    stack = init_stack(MODEL, [3, 4, 3], [1 / 36, .2, 1.])
    together = digit_sides(stack, DIGITS, None, n_draws=19)
    for k in range(3):
        for name, value in digit_sides(stack[k], DIGITS, None, n_draws=19).items():
            torch.testing.assert_close(value, together[name][k:k + 1], rtol=1e-5, atol=1e-6)
    assert all(((value >= 0) & (value <= 1)).all() and value.shape == (3, 2) for value in together.values())
    assert (together['digit_fi'][0] > .95).all()  # one link in each direction
    for name in ('digit_fi', 'digit_int'): assert (together[f'{name}_cells_p'] < 1.5 / 20).all()


def test_null():
    "The same means in other cells: about the mean and deviation of draws of one's own"
    found = digit_sides(init_stack(MODEL, [3], [.2]), DIGITS, None, n_draws=100)
    means, generator = cell_means(init_stack(MODEL, [3], [.2]), DIGITS), torch.Generator().manual_seed(0)
    draws = [digit_indices(means[..., torch.randperm(80, generator=generator)]) for _ in range(100)]
    for name in ('digit_fi', 'digit_int'):
        mean, sd = (torch.stack([draw[name] for draw in draws]).mean(0), found[f'{name}_cells_sd'])
        assert ((found[f'{name}_cells_mean'] - mean).abs() < sd).all()


# refused

def test_other_numbers_of_subnetworks():
    with pytest.raises(ValueError, match='two sub-networks'):
        digit_sides(init_stack(Recurrent(64, n_hidden=5, n_subnetworks=3), [0], .2), DIGITS, None)


def test_states_that_are_no_numbers():
    stack = init_stack(MODEL, [5, 6], .5)
    stack.weights['W_ih'][1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r'network 1 \(seed 6\)'): digit_sides(stack, DIGITS, None)


def test_digits_that_are_missing():
    "Without sevens there are cells without a mean"
    there = DIGITS.test.labels != 7
    test = Digits(DIGITS.test.images[there], DIGITS.test.labels[there])
    with pytest.raises(ValueError, match=r'\[0, 7\]'):
        digit_sides(init_stack(MODEL, [0], .5), Dataset('no sevens', DIGITS.train, test), None)
