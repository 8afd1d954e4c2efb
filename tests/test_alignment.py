"Two divisions of the same units: similarity by its definition, chance by permutations and the urn, transfer, ranks"
import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import hypergeom, spearmanr
from sklearn.metrics import adjusted_mutual_info_score

from modspec.measures.alignment import (
    ALIGNMENTS,
    adjusted_similarity,
    aligned,
    association_correlation,
    element_centric_similarity,
    mutual_information,
    shared_units,
    similarity_by_chance,
    transfer,
    transferred,
)
from modspec.measures.communities import maximize, modularity

BY_LABELS = element_centric_similarity, similarity_by_chance, adjusted_similarity, mutual_information


@st.composite
def divisions(draw, least=0, most=30):
    "Two divisions of the same units, of which at least one has a cluster in both"
    n = draw(st.integers(1, most))
    a, b = (draw(hnp.arrays(np.int64, n, elements=st.integers(least, 5))) for _ in range(2))
    a[0], b[0] = abs(a[0]), abs(b[0])
    return a, b


def associations(n, seed, inputs=10):
    W = np.random.default_rng(seed).normal(size=(n, inputs))
    A = abs(W @ W.T)
    return A * (1 - np.eye(n))


def crossed():
    "32 linear units of four kinds, each from one of two inputs to one of two outputs, eight copies of each (T17)"
    W_in, W_out = np.eye(2)[[0, 0, 1, 1] * 8], np.eye(2)[[0, 1, 0, 1] * 8].T
    return [M * (1 - np.eye(32)) for M in (W_in @ W_in.T, W_out.T @ W_out)]


# similarity

def by_pagerank(a, b, alpha=.9):
    "Element-centric similarity by its definition (Gates et al. 2019): personal PageRank in the graph of each division"
    def walks(labels):
        together = (labels[:, None] == labels) * 1.
        W = together / together.sum(1, keepdims=True)
        return (1 - alpha) * np.linalg.inv(np.eye(len(labels)) - alpha * W)
    return (1 - abs(walks(a) - walks(b)).sum(1) / (2 * alpha)).mean()


@given(divisions(), st.sampled_from([.9, .5, .1]))
def test_similarity_is_that_of_its_definition(pair, alpha):
    "whatever the damping (T10)"
    assert element_centric_similarity(*pair) == pytest.approx(by_pagerank(*pair, alpha), abs=1e-12)


def test_pagerank_is_that_of_networkx():
    "so that the oracle is one"
    a, b = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 0])
    parts = []
    for i in range(6):
        walks = []
        for labels in a, b:
            g = nx.from_numpy_array((labels[:, None] == labels) * 1.)
            walks.append(nx.pagerank(g, alpha=.9, personalization={i: 1}, tol=1e-14, max_iter=1000))
        parts.append(1 - sum(abs(walks[0][j] - walks[1][j]) for j in range(6)) / 1.8)
    assert element_centric_similarity(a, b) == pytest.approx(np.mean(parts), abs=1e-10)


@given(divisions(), st.permutations(range(6)))
def test_what_similarities_have_in_common(pair, names):
    "symmetric; 1 for the same division by other names; the same for other names and another order of units"
    a, b = pair
    renamed, order = np.array(names)[a], np.random.default_rng(0).permutation(len(a))
    for value in BY_LABELS:
        assert value(a, b) == pytest.approx(value(b, a), abs=1e-9) and value(a, b) <= 1 + 1e-9
        assert value(renamed, b) == pytest.approx(value(a, b), abs=1e-9)
        assert value(a[order], b[order]) == pytest.approx(value(a, b), abs=1e-9)
        if value is not similarity_by_chance: assert value(a, renamed) == pytest.approx(1, abs=1e-9)
    assert 0 < element_centric_similarity(a, b) and 0 < similarity_by_chance(a, b) <= 1 + 1e-12


@given(divisions(least=-1))
def test_units_without_a_cluster_are_left_out(pair):
    "and are not a cluster of their own"
    a, b = pair
    both = (a >= 0) & (b >= 0)
    for value in BY_LABELS: assert value(a, b) == pytest.approx(value(a[both], b[both]), abs=1e-12)


def test_silent_units_do_not_make_divisions_alike():
    a, b = np.repeat([0, 1, -1], [8, 8, 16]), np.concatenate([np.arange(16) % 2, np.full(16, -1)])
    assert element_centric_similarity(a, b) == .5 < element_centric_similarity(a + 1, b + 1)


def test_one_cluster_against_single_units():
    assert element_centric_similarity([0] * 7, range(7)) == pytest.approx(1 / 7, abs=1e-12)


@given(divisions())
def test_shared_units(pair):
    a, b = pair
    expected = [[((a == u) & (b == v)).sum() for v in np.unique(b)] for u in np.unique(a)]
    assert (shared_units(a, b) == expected).all()


# chance

@given(divisions())
def test_chance_is_that_of_the_urn(pair):
    a, b = pair
    n, expected = len(a), 0
    for u in np.bincount(a)[np.unique(a)]:
        for v in np.bincount(b)[np.unique(b)]:
            counts = np.arange(n + 1)
            expected += (hypergeom(n, u, v).pmf(counts) * counts**2).sum() / max(u, v) / n
    assert similarity_by_chance(a, b) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize('seed', range(3))
def test_chance_is_the_mean_of_5000_permutations(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 4, 64), rng.integers(0, 6, 64)
    drawn = [element_centric_similarity(a, rng.permutation(b)) for _ in range(5000)]
    assert similarity_by_chance(a, b) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 5000**.5)


def test_independent_equal_divisions():
    "four clusters of sixteen units: 0.286, exactly and by 2000 draws (T11)"
    rng, a = np.random.default_rng(0), np.arange(64) % 4
    drawn = [element_centric_similarity(a, rng.permutation(a)) for _ in range(2000)]
    exact = (1 + 15**2 / 63) / 16
    assert similarity_by_chance(a, a) == pytest.approx(exact, abs=1e-12) and abs(np.mean(drawn) - .286) < .005
    assert abs(np.mean([adjusted_similarity(a, rng.permutation(a)) for _ in range(2000)])) < .005


@given(divisions(least=-1))
@settings(deadline=None)  # scikit-learn takes its time when first called
def test_mutual_information_is_that_of_scikit_learn(pair):
    a, b = pair
    both = (a >= 0) & (b >= 0)
    assert mutual_information(a, b) == pytest.approx(adjusted_mutual_info_score(a[both], b[both]), abs=1e-9)


@pytest.mark.parametrize('labels', [[3], [0] * 5, range(5)])
def test_the_only_division_of_its_sizes_agrees_with_itself(labels):
    "one unit, one cluster, single units: chance is 1, and there is nothing above it"
    labels = np.array(labels)
    assert [value(labels, labels) for value in BY_LABELS] == pytest.approx([1] * 4, abs=1e-12)


# the crossed network

def test_crossed_network():
    "is perfectly modular twice, and its divisions agree no more than by chance (T17)"
    (A, B), rng = crossed(), np.random.default_rng(0)
    (a, q_a), (b, q_b) = maximize(A, seed=0), maximize(B, seed=0)
    assert q_a == pytest.approx(.5, abs=1e-12) == q_b and len({*zip(a.tolist(), b.tolist())}) == 4
    assert element_centric_similarity(a, b) == pytest.approx(.5, abs=1e-12)
    drawn = [element_centric_similarity(a, rng.permutation(b)) for _ in range(5000)]
    assert similarity_by_chance(a, b) == pytest.approx(.516, abs=5e-4) == pytest.approx(np.mean(drawn), abs=2e-3)
    none = adjusted_similarity(a, b), mutual_information(a, b), transfer(A, a, B, b), association_correlation(A, B)
    assert -.1 < min(none) and max(none) < 0


# transfer

@pytest.mark.parametrize('seed', range(5))
def test_transfer_is_the_mean_of_two_shares(seed):
    A, B = associations(20, seed), associations(20, seed + 100)
    (a, q_a), (b, q_b) = (maximize(M, seed=0) for M in (A, B))
    expected = (modularity(A, b) / q_a + modularity(B, a) / q_b) / 2
    assert transfer(A, a, B, b) == pytest.approx(expected, abs=1e-12) == pytest.approx(transfer(B, b, A, a))
    assert transfer(A, a, A, 9 - a) == pytest.approx(1, abs=1e-12) and expected <= 1
    assert transfer(1e6 * A, a, 1e-6 * B, b) == pytest.approx(expected, abs=1e-9)


def test_transfer_by_chance():
    "is a little below 0: minus the share of pairs between clusters, times the squared shares of units, over Q"
    rng, A = np.random.default_rng(0), associations(64, 0)
    a, q = maximize(A, seed=0)
    sizes, k = np.bincount(a), A.sum(0) / A.sum()
    expected = -(1 - (sizes * (sizes - 1)).sum() / (64 * 63)) * (k**2).sum() / q
    drawn = [transferred(A, a, rng.permutation(a)) for _ in range(2000)]
    assert expected == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 2000**.5) and expected < -.05


def test_transfer_is_about_units_in_both():
    A, labels = np.kron(np.eye(2), np.ones((4, 4))) - np.eye(8), np.repeat([0, 1], 4)
    some = np.where(np.arange(8) < 1, -1, labels)
    assert transferred(A, labels, some) == transferred(A, some, labels) == 1


def test_nothing_to_transfer():
    "is 0: one cluster, a division worse than none, and units in both that are joined to nothing"
    A = associations(6, 0)
    assert transferred(A, [0] * 6, [0, 1] * 3) == 0 and transferred(A, range(6), [0] * 6) == 0
    B = np.zeros((4, 4))
    B[0, 1] = B[1, 0] = 1
    assert transferred(B, [0, 0, 1, 1], [-1, -1, 0, 0]) == 0


# ranks

@given(st.integers(2, 8), st.integers(0, 99))
def test_ranks_are_those_of_scipy(n, seed):
    A, B = associations(n, seed).round(1), associations(n, seed + 100)
    pairs, found = np.tril_indices(n, -1), association_correlation(A, B)
    if len({*A[pairs]}) > 1 and len({*B[pairs]}) > 1:
        assert found == pytest.approx(spearmanr(A[pairs], B[pairs]).statistic, abs=1e-12)
    else: assert found == 0


def test_the_diagonal_does_not_count():
    A, B = associations(9, 0), associations(9, 1)
    assert association_correlation(A + 7 * np.eye(9), B) == association_correlation(A, B)
    assert association_correlation(A, np.exp(A)) == pytest.approx(1) == -association_correlation(A, -A)


# all at once

def several(seeds=(0, 1), n=12):
    "Three associations of some networks, and their divisions; the last unit has none in the second"
    matrices = {name: np.stack([associations(n, 10 * seed + k) for seed in seeds]) for k, name in enumerate('xyz')}
    matrices['y'][:, -1] = matrices['y'][:, :, -1] = 0
    labels = {name: np.stack([maximize(A, seed=0)[0] for A in of]) for name, of in matrices.items()}
    return ({name: torch.tensor(one) for name, one in of.items()} for of in (matrices, labels))


def test_all_at_once_is_each_by_itself():
    matrices, labels = several()
    found = aligned(matrices, labels)
    assert (*found,) == ALIGNMENTS and all(value.shape == (2, 3, 3) for value in found.values())
    for n in range(2):
        for i, x in enumerate('xyz'):
            for j, y in enumerate('xyz'):
                A, a, B, b = matrices[x][n], labels[x][n], matrices[y][n], labels[y][n]
                both = (a >= 0) & (b >= 0)
                A, B = A[both][:, both], B[both][:, both]
                expected = dict(ecs=element_centric_similarity(a, b), ecs_chance=similarity_by_chance(a, b),
                                ami=mutual_information(a, b), transfer=transfer(A, a[both], B, b[both]),
                                rsa=association_correlation(A, B))
                for name, value in expected.items():
                    assert found[name][n, i, j].item() == pytest.approx(value, abs=1e-9), name
    alone = aligned({k: v[1:] for k, v in matrices.items()}, {k: v[1:] for k, v in labels.items()})
    for name, value in found.items():
        assert torch.equal(alone[name], value[1:]) and torch.equal(value, value.mT)
        if name != 'ecs_chance': assert value.diagonal(dim1=1, dim2=2).min().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize('left', [0, 1])
def test_of_a_layer_that_has_died_nothing_is_said(left):
    "not even that it agrees with itself, and nothing that is no number"
    matrices, labels = several()
    for name in 'xyz': labels[name][1, left:] = -1
    for name in 'xyz': matrices[name][1] = 0
    found = aligned(matrices, labels)
    assert all((value[1] == 0).all() and value.isfinite().all() and (value[0] != 0).any() for value in found.values())


def test_tensors_with_gradients_of_the_networks_precision():
    matrices, labels = several()
    found = aligned({k: v.float().requires_grad_() for k, v in matrices.items()}, labels)
    for name, value in aligned(matrices, labels).items():
        torch.testing.assert_close(found[name], value, atol=2e-3, rtol=0)


# what is refused

@pytest.mark.parametrize('value', BY_LABELS)
@pytest.mark.parametrize(('bad', 'message'), [
    ([0, 1], 'labels of 3 and of 2'), ([-1, -1, -1], 'none of 3'), ([0., 1., 2.], 'whole number >= -1 .*float64'),
    ([0, -2, 1], 'whole number >= -1'), ([[0, 1, 2]], r'shape \(1, 3\)'), (['a', 'b', 'c'], 'whole number')])
def test_what_is_no_division_is_refused(value, bad, message):
    with pytest.raises(ValueError, match=message): value([0, 1, 1], bad)


@pytest.mark.parametrize(('A', 'message'), [
    (np.ones((3, 3)), 'zero diagonal'), (np.zeros((3, 3)), 'at least one edge'), (np.eye(3) - 1, '>= 0, got -1'),
    (np.triu(np.ones((3, 3)), 1), 'symmetric'), (np.full((3, 3), np.nan), 'finite'),
    (np.ones((2, 2)) - np.eye(2), 'per unit, 2, got 3')])
def test_what_is_no_association_is_refused(A, message):
    "and labels that do not fit"
    good, labels = 1 - np.eye(3), np.array([0, 0, 1])
    for pair in (A, labels, good, labels), (good, labels, A, labels):
        with pytest.raises(ValueError, match=message): transfer(*pair)


@pytest.mark.parametrize(('A', 'B', 'message'), [
    (np.ones((3, 3)), np.ones((2, 2)), 'got 3 and 2'), (np.ones((1, 1)), np.ones((1, 1)), 'at least 2, got 1 and 1'),
    (np.ones((2, 3)), np.ones((2, 3)), r'A must be one square .*\(2, 3\)'),
    (np.eye(2), np.diag([np.inf, 1]), 'B must hold finite')])
def test_matrices_that_do_not_fit_are_refused(A, B, message):
    with pytest.raises(ValueError, match=message): association_correlation(A, B)


@pytest.mark.parametrize('spoil', [
    lambda m, c: c.pop('z'), lambda m, c: m.update(x=m['x'][0]), lambda m, c: m.update(x=m['x'][:1]),
    lambda m, c: c.update(y=c['y'][:, 1:]), lambda m, c: (m.update(z=m['z'][:, 1:, 1:]), c.update(z=c['z'][:, 1:]))])
def test_all_at_once_wants_what_fits(spoil):
    matrices, labels = several()
    spoil(matrices, labels)
    with pytest.raises(ValueError, match="labels must be those of|must be .networks, units, units"):
        aligned(matrices, labels)
