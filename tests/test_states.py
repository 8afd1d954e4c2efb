"""Saturation, effective rank and explained variance against plain numpy, on made-up states and on small networks"""
import itertools

import numpy as np
import pytest
import torch
from test_network import lively

from modspec.core.data import load_dataset
from modspec.core.tasks import held_out_pairs
from modspec.measures.states import effective_rank, explained_variance, state_statistics
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.networks.stack import Stack
from modspec.training.parameters import Parameters

DIGITS = load_dataset('digits')


def plain_rank(h):
    "exp of the entropy of the singular values of centered states, shape (examples, units) (Roy & Vetterli 2007)"
    sigma = np.linalg.svd(h - h.mean(0), compute_uv=False)
    p = sigma[sigma > 0] / sigma.sum()
    return np.exp(-(p * np.log(p)).sum())


def plain_explained(h, classes):
    "1 less the share of the variance within classes"
    within = sum(((h[classes == c] - h[classes == c].mean(0))**2).sum() for c in np.unique(classes))
    return 1 - within / ((h - h.mean(0))**2).sum()


def plain_states(stack, k, pairs):
    "States of network k, step by step, in float64: shape (steps, sub-networks, pairs, N)"
    w = {name: weight[k].double().numpy() for name, weight in stack.weights.items()}
    x, S = DIGITS.test.images[pairs].double().numpy() / 255, len(pairs)
    h, found = np.zeros((S, pairs.shape[1], w['b_hh'].shape[1])), []
    for _ in range(stack.architecture.n_steps):
        heard = np.zeros_like(h)
        for link, (n, m) in zip(w['W_sparse'], itertools.permutations(range(S), 2)): heard[n] += h[m] @ link.T
        own = [x[n] @ w['W_ih'][n].T + w['b_ih'][n] + w['b_hh'][n] + h[n] @ w['W_hh'][n].T for n in range(S)]
        h = np.tanh(np.stack(own) + heard)
        found.append(h)
    return np.stack(found)


def test_made_up_states():
    "of which one is wide, one lies on a line and one never varies; a class that nobody has shown counts for nothing"
    g = np.random.default_rng(0)
    classes = g.integers(0, 3, 400)
    wide, line, still = g.normal(size=(400, 6)) + classes[:, None], np.outer(classes, np.ones(6)), np.ones((400, 6))
    for h, rank, explained in ((wide, plain_rank(wide), plain_explained(wide, classes)), (line, 1, 1), (still, 1, 0)):
        away = torch.tensor(h - h.mean(0))
        sums = torch.stack([torch.tensor(h[classes == c]).sum(0) for c in range(4)], 1)
        found = explained_variance(sums, torch.tensor([*np.bincount(classes, minlength=4)]), away.square().sum())
        assert effective_rank(away.T @ away / 400).item() == pytest.approx(rank, abs=1e-6)
        assert found.item() == pytest.approx(explained, abs=1e-6)


@pytest.mark.parametrize('S', [2, 3])
def test_statistics_of_small_networks(S):
    "Of each step, sub-network and digit; alone as in the stack"
    stack = lively(Recurrent(64, n_hidden=6, n_subnetworks=S, n_steps=3), [3, 4], [1 / 36, 1.], gain=12.)
    found, pairs = state_statistics(stack, DIGITS, Parameters()), held_out_pairs(DIGITS.test, n_subnetworks=S)
    digits = DIGITS.test.labels[pairs].numpy()
    for k in range(2):
        h = plain_states(stack, k, pairs)
        for t, n in np.ndindex(3, S):
            at = k, t, n
            assert found['saturation'][at].item() == pytest.approx((abs(h[t, n]) > .95).mean(), abs=1e-4)
            assert found['effective_rank'][at].item() == pytest.approx(plain_rank(h[t, n]), rel=1e-3)
            expected = [plain_explained(h[t, n], one) for one in digits]
            assert found['explained'][at].tolist() == pytest.approx(expected, abs=1e-4)
        alone = state_statistics(stack[k], DIGITS, Parameters())
        for name, value in found.items(): torch.testing.assert_close(alone[name], value[k:k + 1], rtol=0, atol=1e-4)
    assert .1 < found['saturation'].mean() < .9


def silenced(bias, faint):
    "Two networks that hear nothing, and whose states are what a bias makes of them and, faintly, of the images"
    stack = init_stack(Recurrent(64, n_hidden=6), [3, 4], 1.)
    weights = {name: w * (faint if name == 'W_ih' else 0) for name, w in stack.weights.items()}
    weights['b_hh'] += bias * torch.tensor([1., -1., .8, .5, -.3, .1])
    return Stack(stack.architecture, weights, stack.seeds, stack.n_connections)


@pytest.mark.parametrize('bias', [0., .1, 2., 30.])
def test_constant_states(bias):
    "A single direction, which is none, and nothing to explain; saturated or not"
    found = state_statistics(silenced(bias, 0.), DIGITS, Parameters())
    assert (found['explained'] == 0).all() and (found['effective_rank'] == 1).all()
    assert (found['saturation'] > .9).all() if bias == 30. else (found['saturation'] < .9).all()


def test_states_that_hardly_vary():
    "What little there is has its rank and its classes, however far from 0 it is"
    stack = silenced(1., 1e-3)
    found, pairs = state_statistics(stack, DIGITS, Parameters()), held_out_pairs(DIGITS.test)
    h = plain_states(stack, 0, pairs)[0, 0]
    assert found['effective_rank'][0, 0, 0].item() == pytest.approx(plain_rank(h), rel=1e-2)
    expected = plain_explained(h, DIGITS.test.labels[pairs[0]].numpy())
    assert found['explained'][0, 0, 0, 0].item() == pytest.approx(expected, abs=1e-3) and expected > .1
