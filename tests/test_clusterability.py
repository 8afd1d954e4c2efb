"N-cut against its definition and networkx, clusterings against scikit-learn, and what must not move the measure"
import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans, SpectralClustering

from modspec.core.registry import entries
from modspec.core.streams import generators
from modspec.measures import clusterability as chapter
from modspec.measures.clusterability import (
    block_ncuts,
    clusterability,
    k_means,
    lloyd_step,
    members,
    ncut,
    network_clusterability,
    normalize_units,
    parts_and_sides,
    restarts,
    two_sided_vectors,
)
from modspec.measures.nulls import SHUFFLES, shuffled
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.graph import layer_blocks, undirected_graph
from modspec.networks.stack import Stack
from modspec.training.parameters import Training, make_parameters

weight = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))
seeds = st.integers(0, 2**32 - 1)
HOW = make_parameters(dict(ncut_draws=5), Training, ('graph',))
VALUES = entries('measure')['clusterability'].about['values']


@st.composite
def graphs(draw, diagonal=True):
    "A random undirected weighted graph with at least one edge, and a cluster for every node"
    n = draw(st.integers(2, 10))
    A = draw(hnp.arrays(np.float64, (n, n), elements=weight))
    A = np.triu(A, 0 if diagonal else 1)
    A[0, 1] += 1
    return A + np.triu(A, 1).T, draw(hnp.arrays(np.int64, n, elements=st.integers(-2, 3)))


def by_definition(A, labels):
    "The sum over clusters as a loop"
    found = 0
    for c in np.unique(labels):
        inside = labels == c
        if A[inside].any(): found += A[inside][:, ~inside].sum() / A[inside].sum()
    return found


def untrained(*sizes, seeds=(0,)):
    "Weights of random networks, layer by layer"
    n_pixels, *layers, n_classes = sizes
    stack = init_feedforward(FeedForward(n_pixels, tuple(layers), n_classes), seeds)
    return [W[:, 0].double() for name, W in stack.weights.items() if name.startswith('W_')]


def as_stack(weights, activation='relu', seeds=None):
    "Networks of these weights"
    sizes = [weights[0].shape[2], *(W.shape[1] for W in weights)]
    model = FeedForward(sizes[0], tuple(sizes[1:-1]), sizes[-1], activation)
    names = [*map(str, range(1, len(weights))), 'out']
    return Stack(model, {f'W_{name}': W[:, None] for name, W in zip(names, weights)},
                 tuple(seeds or range(len(weights[0]))))


# n-cut of a partition

@given(graphs())
def test_ncut_is_its_definition(graph):
    assert ncut(*graph) == pytest.approx(by_definition(*graph), abs=1e-12)


@settings(deadline=None)
@given(graphs(diagonal=False))
def test_two_clusters_as_in_networkx(graph):
    A, labels = graph
    side = labels > 0
    if not A[side].any() or not A[~side].any(): return
    G = nx.from_numpy_array(A)
    oracle = nx.normalized_cut_size(G, np.flatnonzero(side), np.flatnonzero(~side), weight='weight')
    assert ncut(A, side.astype(int)) == pytest.approx(oracle, abs=1e-12)


@given(graphs())
def test_range(graph):
    assert 0 <= ncut(*graph) <= len(np.unique(graph[1]))


@given(graphs(), st.permutations(range(6)), st.randoms(use_true_random=False), st.floats(-300, 300))
def test_names_order_and_unit_do_not_matter(graph, names, random, exponent):
    (A, labels), order = graph, list(range(len(graph[1])))
    random.shuffle(order)
    same = 10**exponent * A[np.ix_(order, order)], 7 * np.array(names)[labels + 2][order] - 20
    assert ncut(*same) == pytest.approx(ncut(A, labels), abs=1e-12)


@pytest.mark.parametrize('K', [2, 3, 5, 8])
def test_values_known_without_a_computer(K):
    "B5: separate modules, of layers or dense; a matrix of ones; a layered graph cut by layer"
    labels = np.repeat(np.arange(K), 6)
    layers, = undirected_graph([torch.rand(1, 2, 3) + .1, torch.rand(1, 1, 2) + .1])
    modules = np.kron(np.eye(K), layers)
    for graph in (modules, np.kron(np.eye(K), np.ones((6, 6)))):
        assert ncut(graph, labels) == 0
        found, cost = clusterability(graph, K, seed=0)
        assert cost == 0 and len({*zip(found, labels)}) == K
    assert ncut(np.ones((6 * K, 6 * K)), labels) == pytest.approx(K - 1, abs=1e-12)
    chain = np.kron(np.eye(K, k=1) + np.eye(K, k=-1), np.ones((6, 6)))
    assert ncut(chain, labels) == K


@pytest.mark.parametrize('bad, message', [
    (np.ones((2, 3)), r'got shape \(2, 3\)'),
    (np.ones((5, 2, 2)), 'one at a time'),
    ([[0, -1], [-1, 0]], r'>= 0, got -1.0 at \[0, 1\]'),
    ([[0, 1], [2, 0]], r'symmetric, got 1.0 at \[0, 1\] and 2.0'),
    ([[0, np.nan], [np.nan, 0]], 'finite numbers only'),
    ([[0, np.inf], [np.inf, 0]], 'finite numbers only'),
    (np.zeros((2, 2)), 'got 0 edges'),
    (np.zeros((0, 0)), 'got 0 edges'),
])
@pytest.mark.parametrize('of', [lambda A: ncut(A, [0, 1]), lambda A: clusterability(A, 2, seed=0)])
def test_what_is_no_graph_is_refused(of, bad, message):
    with pytest.raises(ValueError, match=message): of(bad)


@pytest.mark.parametrize('labels', [[0], [0, 1, 1], [[0, 1]], 0, [0.0, 1.0], ['a', 'b']])
def test_labels_must_be_one_integer_per_node(labels):
    with pytest.raises(ValueError, match='one integer per node'): ncut(np.ones((2, 2)), labels)


@pytest.mark.parametrize('K', [0, 1, 5, 2.0, True, None])
def test_number_of_clusters(K):
    "From two to as many as nodes with an edge, which are four here"
    with pytest.raises(ValueError, match=r'n_clusters must be a whole number in \[2, 4\]'):
        clusterability(np.pad(np.ones((4, 4)), 1), K, seed=0)


# clustering

@given(graphs(), st.booleans(), st.sampled_from([.2, 1]), seeds)
def test_parts_and_sides_are_those_of_networkx_and_scipy(graph, two_sided, density, seed):
    (A, side), rng = graph, np.random.default_rng(seed)
    if two_sided: A = np.where((side[:, None] > 0) != (side > 0), A, 0)
    thinned = np.triu(A * (rng.random(A.shape) < density))
    A = thinned + thinned.T
    part, odd = parts_and_sides(A)
    assert part.tolist() == connected_components(A, directed=False)[1].tolist()
    assert nx.is_bipartite(nx.from_numpy_array(A)) != A[odd[:, None] == odd].any()


@settings(deadline=None)
@given(st.lists(st.integers(2, 9), min_size=2, max_size=4), st.integers(2, 9), seeds)
def test_vectors_of_two_sides_are_those_of_the_whole_graph(sizes, K, seed):
    "in whatever order the nodes are, and None where there are fewer on a side"
    rng, n = np.random.default_rng(seed), sum(sizes)
    order, layer = rng.permutation(n), np.repeat(np.arange(len(sizes)), sizes)
    A = np.triu(.1 + rng.random((n, n))) * (np.abs(layer[:, None] - layer) == 1)
    A = (A + A.T)[np.ix_(order, order)]
    root, smaller = np.sqrt(A.sum(1)), min(sum(sizes[::2]), sum(sizes[1::2]))
    found = two_sided_vectors(A, K)
    if K > smaller: assert found is None
    if K >= smaller: return
    values, vectors = np.linalg.eigh(A / root[:, None] / root)
    assume(values[-K] > .02 and values[-K] - values[-K - 1] > .01)
    np.testing.assert_allclose(found @ found.T, vectors[:, -K:] @ vectors[:, -K:].T, atol=1e-9)


def test_graphs_of_one_side_have_no_such_vectors():
    "nor have those of a value near zero: two units that hear the same"
    assert two_sided_vectors(np.ones((3, 3)) - np.eye(3), 1) is None
    same = np.kron([[0, 1], [1, 0]], np.ones((4, 4)))
    assert two_sided_vectors(same, 1) is not None and two_sided_vectors(same, 2) is None


@pytest.mark.parametrize('share', [1, .3, .1])
def test_the_short_way_finds_the_same_ncut(monkeypatch, share):
    rng = torch.Generator().manual_seed(0)
    weights = [W * (torch.rand(W.shape, generator=rng) < share) for W in untrained(20, 20, 20, 5, seeds=range(5))]
    of = undirected_graph(weights).numpy()
    short = [clusterability(A, 4, seed=0)[1] for A in of]
    monkeypatch.setattr(chapter, 'two_sided_vectors', lambda A, K: None)
    assert short == pytest.approx([clusterability(A, 4, seed=0)[1] for A in of], abs=1e-9)


@given(st.integers(1, 4), st.integers(0, 5), seeds)
def test_the_first_of_equally_near_centers_counts(K, more, seed):
    rng = np.random.default_rng(seed)
    points, centers = rng.integers(-1, 2, (K + more, 2)), rng.integers(-1, 2, (3, K, 2))
    inside, _ = lloyd_step(points.astype(float), centers.astype(float))
    labels = ((centers[:, :, None] - points)**2).sum(3).argmin(1)
    assert (inside.sum(1) == 1).all()
    for row, near in zip(inside, labels):
        if {*near} == {*range(K)}: assert (row.argmax(0) == near).all()


@pytest.mark.parametrize('sizes, K', [((8, 16, 8, 2), 4), ((20, 20, 20, 5), 4), ((40, 20, 20, 10), 8)])
def test_at_most_the_ncut_of_scikit_learn(sizes, K):
    "which takes the restart of the lowest inertia"
    ours, theirs = [], []
    for seed, A in enumerate(undirected_graph(untrained(*sizes, seeds=range(5))).numpy()):
        oracle = SpectralClustering(K, affinity='precomputed', n_init=25, random_state=seed).fit(A)
        theirs.append(ncut(A, oracle.labels_))
        ours.append(clusterability(A, K, seed=seed)[1])
    assert np.mean(ours) <= np.mean(theirs) and (np.array(ours) <= np.array(theirs) + .02).all()


def test_planted_modules_are_found():
    "whatever the order of the nodes"
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(4), 8)
    A = rng.random((32, 32)) * np.where(labels[:, None] == labels, 1, .1)
    order = rng.permutation(32)
    found, cost = clusterability((A + A.T)[np.ix_(order, order)], 4, seed=0)
    assert len({*zip(found, labels[order])}) == 4 and cost == pytest.approx(ncut(A + A.T, labels))


@pytest.mark.parametrize('K', [2, 5, 9])
def test_k_means_is_as_good_as_scikit_learns(K):
    points = np.random.default_rng(K).normal(size=(60, 4))
    inside = members(k_means(points, K, 25, generator=generators([0], 'test')[0]), K)
    centers = inside @ points / inside.sum(2, keepdims=True)
    inertia = (((points - centers[:, :, None])**2).sum(3) * inside).sum((1, 2)).min()
    assert inertia <= 1.02 * KMeans(K, n_init=25, random_state=0).fit(points).inertia_


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 8), seeds)
def test_no_cluster_is_empty(K, more, seed):
    "also where points are the same, and each point is alone where there are as many clusters"
    rng = np.random.default_rng(seed)
    for points in (rng.integers(0, 2, (K + more, 2)).astype(float), np.zeros((K + more, 3))):
        labels = k_means(points, K, 3, generator=generators([seed], 'test')[0])
        assert all({*row} == {*range(K)} for row in labels.tolist())


def test_restarts_and_the_best_of_them():
    A, = undirected_graph(untrained(8, 16, 8, 3)).numpy()
    labels, costs = restarts(A, 4, seed=3)
    assert labels.shape == (25, len(A)) and costs.shape == (25,)
    assert costs == pytest.approx([ncut(A, row) for row in labels])
    best, cost = clusterability(A, 4, seed=3)
    assert cost == costs.min() == pytest.approx(ncut(A, best), abs=1e-12)
    assert costs.max() > costs.min() and len({*map(tuple, labels)}) > 1


def test_more_restarts_on_large_graphs(monkeypatch):
    monkeypatch.setattr(chapter, 'spectral_points', lambda A, K: np.repeat([[0.], [1.]], [1000, len(A) - 1000], 0))
    ring = np.roll(np.eye(2001), 1, 0)
    assert restarts(ring + ring.T, 2, seed=0)[0].shape == (100, 2001)


def test_same_seed_same_bits():
    "Whatever the state of global generators, which are left as they were; the graph stays as it is"
    A, = undirected_graph(untrained(8, 16, 8, 3))
    before, kept = torch.get_rng_state(), A.clone()
    first = clusterability(A, 4, seed=0)
    torch.testing.assert_close(torch.get_rng_state(), before)
    torch.manual_seed(5)
    second = clusterability(A.numpy(), 4, seed=0)
    assert first[1] == second[1] and (first[0] == second[0]).all() and torch.equal(A, kept)
    with pytest.raises(TypeError): clusterability(A, 4)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(2, 6), seeds)
def test_a_graph_that_falls_apart(n_parts, K, seed):
    "costs nothing if it has a part for every cluster, and can be clustered if it has not"
    rng, A = np.random.default_rng(seed), np.zeros((4 * n_parts, 4 * n_parts))
    for part in range(n_parts): A[4 * part:4 * part + 4, 4 * part:4 * part + 4] = .1 + rng.random((4, 4))
    if K > len(A): return
    labels, cost = clusterability(A + A.T, K, seed=seed)
    assert {*labels} == {*range(K)} and cost == pytest.approx(ncut(A + A.T, labels), abs=1e-12)
    assert (cost == 0) == (n_parts >= K)


def test_nodes_without_an_edge_are_left_out():
    A, = undirected_graph(untrained(8, 16, 8, 3)).numpy()
    labels, cost = clusterability(A, 4, seed=0)
    padded, same = clusterability(np.pad(A, (2, 1)), 4, seed=0)
    assert padded.tolist() == [-1, -1, *labels, -1] and same == cost
    assert ncut(np.pad(A, (2, 1)), padded) == pytest.approx(cost, abs=1e-12)


# graph and scale of a network

def test_graph_has_the_edges_of_the_network():
    stack = init_feedforward(FeedForward(5, (4, 3), 2), [0, 1])
    stack.weights['W_2'][0, 0, 1] = 0
    edges = stack.architecture.adjacency(stack.weights)
    weights = [W[:, 0] for name, W in stack.weights.items() if name.startswith('W_')]
    graph = undirected_graph(weights)
    assert torch.equal(graph > 0, edges | edges.mT) and torch.equal(graph, graph.mT)
    torch.testing.assert_close(graph.sum((1, 2)) / 2, sum(W.abs().sum((1, 2)) for W in weights))


@pytest.mark.parametrize('shapes', [[], [(3, 2)], [(1, 3, 2), (1, 2, 4)], [(1, 3, 2), (2, 2, 3)]])
def test_layers_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match='matrices must be'): undirected_graph([torch.ones(shape) for shape in shapes])


@settings(deadline=None)
@given(seeds)
def test_scale_of_relu_units_does_not_matter(seed):
    "B7: rescaled networks compute the same and have the same normal form, which computes the same too"
    rng = torch.Generator().manual_seed(seed)
    weights = [torch.randn(2, *shape, dtype=torch.double, generator=rng) for shape in ((6, 4), (5, 6), (3, 5))]
    c, d = (torch.randn(2, n, dtype=torch.double, generator=rng).exp() for n in (6, 5))
    other = [weights[0] * c[..., None], weights[1] * d[..., None] / c[:, None], weights[2] / d[:, None]]
    x = torch.randn(4, 20, dtype=torch.double, generator=rng)
    def answers(W): return W[2] @ (W[1] @ (W[0] @ x).relu()).relu()
    normal = normalize_units(weights)
    for one, same in zip(normal, normalize_units(other)): torch.testing.assert_close(one, same)
    torch.testing.assert_close(answers(normal), answers(weights))
    for W in normal[:-1]: torch.testing.assert_close(W.abs().mean(2), torch.ones(W.shape[:2], dtype=W.dtype))


def test_dead_units():
    "What nothing enters is left out, and in turn what it alone feeds; what nothing leaves stays"
    weights = [torch.ones(1, 3, 2), torch.ones(1, 2, 3), torch.ones(1, 1, 2)]
    weights[0][:, 0] = 0
    weights[1][:, 1, 1:] = 0  # the second unit hears the dead one only
    weights[2][:, :, 0] = 0
    first, second, last = normalize_units(weights)
    assert (first[:, 0] == 0).all() and (second[:, :, 0] == 0).all() and (second[:, 1] == 0).all()
    assert (last == 0).all() and (first[:, 1:] == 1).all() and (second[0, 0, 1:] == 1.5).all()


@pytest.mark.parametrize('kind', SHUFFLES)
def test_shuffles_keep_the_weights_of_each_layer(kind):
    "B8: all of them, and their places too where only sizes move"
    W = untrained(9, 8, 7, 3, seeds=range(3))[1]
    W = W * (W > 0)
    drawn = shuffled(W, kind, streams=generators(range(3), 'test'))
    assert torch.equal(drawn.flatten(1).sort().values, W.flatten(1).sort().values) and not torch.equal(drawn, W)
    if kind == 'support': assert torch.equal(drawn != 0, W != 0)


# the measure

def test_values_of_the_measure():
    weights = untrained(8, 16, 8, 3, seeds=range(3))
    before = [W.clone() for W in weights]
    values = network_clusterability(as_stack(weights), None, HOW)
    assert {*values} == {*VALUES}
    for name, value in values.items():
        assert value.shape == (3,) and value.isfinite().all() and (value >= 0).all()
        assert (value <= (1 if name.endswith('_p') else 4)).all()
    assert all(map(torch.equal, weights, before))
    for kind in SHUFFLES:
        assert (values[f'ncut_{kind}_sd'] > 0).all() and (values[f'ncut_{kind}_p'] >= 1 / 6).all()
        assert (values['ncut'] - values[f'ncut_{kind}_mean']).abs().max() < .5  # a random network is like its shuffles


def test_same_values_again_and_alone():
    weights = untrained(8, 10, 6, 3, seeds=range(3))
    stacked = network_clusterability(as_stack(weights, seeds=[4, 5, 4]), None, HOW)
    again = network_clusterability(as_stack(weights, seeds=[4, 5, 4]), None, HOW)
    alone = network_clusterability(as_stack(weights, seeds=[4, 5, 4])[1], None, HOW)
    for name, value in stacked.items():
        assert torch.equal(value, again[name])
        torch.testing.assert_close(value[1:2], alone[name], rtol=0, atol=1e-12)


def test_only_units_without_a_scale_are_normalised():
    weights = untrained(8, 16, 8, 3, seeds=range(3))
    other = [weights[0] * 8, weights[1], weights[2] / 8]
    both = [layer_blocks(W) for W in (weights, other)]
    found = {activation: [block_ncuts(W, 4, activation=activation, seeds=range(3)) for W in both]
             for activation in ('relu', 'linear', 'tanh')}
    for activation in ('relu', 'linear'): torch.testing.assert_close(*found[activation], rtol=0, atol=.02)
    assert (found['tanh'][0] - found['tanh'][1]).abs().max() > .1


@pytest.mark.parametrize('activation', ['relu', 'tanh'])
@pytest.mark.parametrize('n_weights', [0, 1])
def test_a_network_of_too_few_weights_is_as_costly_as_can_be(activation, n_weights):
    "so it is never modular, and neither are its shuffles"
    weights = [torch.zeros(2, *shape) for shape in ((6, 4), (5, 6), (3, 5))]
    for W in weights[:n_weights]: W[:, 0, 0] = 1
    values = network_clusterability(as_stack(weights, activation), None, HOW)
    assert (values['ncut'] == 4).all()
    for kind in SHUFFLES:
        assert (values[f'ncut_{kind}_mean'] == 4).all() and (values[f'ncut_{kind}_sd'] == 0).all()
        assert (values[f'ncut_{kind}_p'] == 1).all()


@pytest.mark.parametrize('wrong', [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(wrong):
    weights = untrained(8, 10, 6, 3, seeds=range(3))
    weights[1][1, 2, 3] = wrong
    with pytest.raises(ValueError, match='network 1'): network_clusterability(as_stack(weights), None, HOW)


@pytest.mark.parametrize('name, bad', [('n_clusters', 1), ('n_clusters', 1001), ('ncut_draws', 1)])
def test_settings_out_of_range(name, bad):
    with pytest.raises(ValueError, match=name): make_parameters({name: bad}, Training, ('graph',))
