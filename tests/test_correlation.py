"""Exact means against brute force, CKA's invariances, and states that have no correlation"""
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_network import lively, one, plain_network

from modspec.core.data import Dataset, Digits, load_dataset
from modspec.core.tasks import held_out_pairs
from modspec.measures.correlation import (
    conditioned_cka,
    correlation_metric,
    hidden_on_test,
    linear_cka,
    matched_halves,
    mean_correlation,
    standardize,
)
from modspec.networks.recurrent import Recurrent, init_stack

DIGITS = load_dataset('digits')
classes_of = st.lists(st.integers(0, 4), min_size=2, max_size=25).map(torch.tensor)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(units, seed=0):
    return torch.linalg.qr(normal(units, units, seed=seed).double())[0]


# the mean correlation

@settings(deadline=None)
@given(classes_of, st.integers(1, 2), st.integers(1, 3), st.integers(3, 8), st.integers(0, 99))
def test_mean_over_all_pairs_is_exact(classes, M, S, N, seed):
    assume(classes.bincount().max() > 1)
    h = normal(M, S, N, len(classes), seed=seed) + 3
    values = mean_correlation(standardize(h), classes, 5)
    for m, n in itertools.product(range(M), range(S)):
        every = [np.corrcoef(h[m, n, :, i].numpy(), h[m, n, :, j].numpy())[0, 1]
                 for i, j in itertools.combinations(range(len(classes)), 2) if classes[i] == classes[j]]
        assert values[m, n].item() == pytest.approx(np.mean(every), abs=1e-6)
        assert -1 - 1e-12 <= values[m, n] <= 1 + 1e-12


@settings(deadline=None)
@given(classes_of, st.integers(3, 8), st.integers(0, 99), st.floats(.01, 100), st.floats(-10, 10))
def test_invariances_of_correlation(classes, N, seed, scale, shift):
    "Pearson's: scale and shift of a state; and the order of units, and of examples"
    assume(classes.bincount().max() > 1)
    h = normal(1, 1, N, len(classes), seed=seed).double()
    value = mean_correlation(standardize(h), classes, 5)
    units, examples = (torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for n in (N, len(classes)))
    others = [(scale * h + shift, classes), (h[:, :, units], classes), (h[..., examples], classes[examples])]
    for other, labels in others:
        torch.testing.assert_close(mean_correlation(standardize(other), labels, 5), value, rtol=0, atol=1e-9)
    torch.testing.assert_close(mean_correlation(standardize(h), 4 - classes, 5), value, rtol=0, atol=1e-9)


@pytest.mark.parametrize('classes', [[0, 1, 2], [3]])
def test_no_two_examples_of_a_class(classes):
    with pytest.raises(ValueError, match=f'no two of the {len(classes)} examples are of the same class'):
        mean_correlation(standardize(normal(1, 1, 4, len(classes))), torch.tensor(classes), 5)


@pytest.mark.parametrize('state', [0., .3, 1e-30, 1., torch.nan, torch.inf])
def test_states_without_correlation(state):
    "The same in all units, or not finite: network and sub-network are named"
    h = normal(3, 2, 6, 10).tanh()
    standardize(h)
    h[2, 1, :, 7] = state
    with pytest.raises(ValueError, match='network 2, sub-network 1: '): standardize(h)
    h[2, 1, :5, 7] = normal(5)
    if state in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match='network 2, sub-network 1: '): standardize(h)
    else: standardize(h)


def test_dead_sub_network():
    stack = init_stack(Recurrent(64, n_hidden=6), [0, 1], 1 / 36)
    for w in stack.weights.values(): w[1, 0] = 0.
    with pytest.raises(ValueError, match='network 1, sub-network 0: '): correlation_metric(stack, DIGITS)


def test_data_of_a_single_class():
    stack, one_class = init_stack(Recurrent(64, n_hidden=6), [0], 1.), DIGITS.test.labels == 3
    few = Digits(DIGITS.test.images[one_class][:3], DIGITS.test.labels[one_class][:3])
    with pytest.raises(ValueError, match='admissible'): correlation_metric(stack, Dataset('made up', few, few))


# matched halves

@settings(deadline=None)
@given(classes_of, st.integers(0, 99))
def test_halves_match(classes, seed):
    "Disjoint, of the same class row by row, and as large as can be"
    first, second = matched_halves(classes, generator=torch.Generator().manual_seed(seed))
    used = first.tolist() + second.tolist()
    assert torch.equal(classes[first], classes[second]) and len(set(used)) == len(used)
    assert len(first) == (classes.bincount() // 2).sum()


def test_halves_are_random():
    "Every example of a class is in either half, and left out of an odd class, about equally often"
    classes = torch.tensor([0, 1, 1, 1, 0])
    halves = [matched_halves(classes, generator=torch.Generator().manual_seed(seed)) for seed in range(900)]
    for half in zip(*halves):
        counts = torch.cat(half).bincount(minlength=5)
        assert (abs(counts[[0, 4]] - 450) < 60).all() and (abs(counts[[1, 2, 3]] - 300) < 60).all()


# CKA

def gram_cka(X, Y):
    "CKA from centered Gram matrices, as Kornblith et al. first write it"
    H = torch.eye(len(X)) - 1 / len(X)
    K, L = (H.double() @ (A @ A.T) @ H.double() for A in (X, Y))
    return (K * L).sum() / (K.norm() * L.norm())


@settings(deadline=None)
@given(st.integers(3, 12), *[st.integers(1, 6)] * 2, st.integers(0, 99), st.floats(.01, 100), st.floats(-9, 9))
def test_cka(n, units_x, units_y, seed, scale, shift):
    "In [0, 1], equal to its Gram form, blind to rotation, scale, shift and a common order of examples, symmetric"
    X, Y = normal(n, units_x, seed=seed).double(), normal(n, units_y, seed=seed + 100).double()
    value, order = linear_cka(X, Y), torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert -1e-12 <= value <= 1 + 1e-12
    others = [(scale * X @ orthogonal(units_x) + shift, Y), (X, -scale * Y @ orthogonal(units_y, 1) - shift),
              (X[order], Y[order]), (Y, X)]
    for other in (gram_cka(X, Y), *(linear_cka(*pair) for pair in others)):
        torch.testing.assert_close(other, value, rtol=0, atol=1e-8)
    torch.testing.assert_close(linear_cka(X, X @ orthogonal(units_x)), torch.ones((), dtype=torch.double))


def test_cka_is_not_blind_to_other_linear_maps():
    X = normal(50, 3)
    assert linear_cka(X, X * torch.tensor([100., 1., 1.])) < .9


def test_cka_of_a_stack():
    X, Y = normal(2, 3, 20, 4), normal(2, 3, 20, 4, seed=1)
    values = linear_cka(X, Y)
    for m, n in np.ndindex(2, 3): torch.testing.assert_close(values[m, n], linear_cka(X[m, n], Y[m, n]))


@pytest.mark.parametrize('constant', [0., 1., torch.nan, torch.inf])
def test_cka_without_variation(constant):
    "States that never vary say nothing, 0; states that are no numbers are refused"
    X = normal(2, 10, 4)
    X[1] = constant
    for pair in ((X, normal(2, 10, 4)), (normal(2, 10, 4), X)):
        if constant in (0., 1.): assert linear_cka(*pair)[1] == 0 < linear_cka(*pair)[0]
        else:
            with pytest.raises(ValueError, match='finite'): linear_cka(*pair)


def test_conditioned_cka_of_made_up_states():
    "1 where the class says everything, near 0 where it says nothing; one split per network, from its seed"
    classes = torch.randint(10, (4000,), generator=torch.Generator().manual_seed(0))
    knows = orthogonal(10).float() @ F.one_hot(classes, 10).T.float()
    h = torch.stack([torch.stack([knows, normal(10, 4000, seed=seed)]) for seed in range(3)])
    values = conditioned_cka(h, classes, seeds=(5, 6, 5))
    torch.testing.assert_close(values[:, 0], torch.ones(3, dtype=torch.double))
    assert (values[:, 1] < .02).all()
    assert torch.equal(values[1:2], conditioned_cka(h[1:2], classes, seeds=(6,)))
    same = conditioned_cka(h[:1].expand(3, -1, -1, -1), classes, seeds=(5, 6, 5))
    assert same[0, 1] == same[2, 1] != same[1, 1]


# the metric

def test_metric_is_made_of_its_parts():
    "States of a plain network; M(n, k) conditioned on digit k, and the base level on nothing"
    stack = lively(Recurrent(64, n_hidden=5), [0, 1], [.1, 1.], gain=3.)
    h, shown = hidden_on_test(stack, DIGITS.test)
    pairs = held_out_pairs(DIGITS.test)
    for m, i in itertools.product(range(2), (0, 499, 500, pairs.shape[1] - 1)):
        x = DIGITS.test.images[pairs[:, i]].double() / 255
        expected = torch.stack(plain_network(one(stack.weights, m), x, 5)[0][-1])
        torch.testing.assert_close(h[m, ..., i].double(), expected, rtol=1e-5, atol=1e-5)
        assert shown[i].tolist() == DIGITS.test.labels[pairs[:, i]].tolist()
    result = correlation_metric(stack, DIGITS)
    for m, n in itertools.product(range(2), range(2)):
        every = np.corrcoef(h[m, n].T.numpy())
        other = ~np.eye(len(every), dtype=bool)
        assert result['correlation_base'][m, n].item() == pytest.approx(every[other].mean(), abs=1e-6)
        for k in range(2):
            same = (shown[:, None, k] == shown[None, :, k]).numpy() & other
            assert result['correlation'][m, n, k].item() == pytest.approx(every[same].mean(), abs=1e-6)
            cka = conditioned_cka(h[m:m + 1, n:n + 1], shown[:, k], seeds=(m,))
            assert result['cka'][m, n, k].item() == pytest.approx(cka.item(), abs=1e-9)
