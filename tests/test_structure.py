"Properties of Q, its closed form and the graph it is computed on"
import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modspec.core.sparsity import q_from_sparsity, sparsity_from_q
from modspec.measures.communities import modularity
from modspec.measures.structure import newman_q, planted_score, split_score, unit_sides
from modspec.networks.graph import network_adjacency, subnetwork_groups, undirected_graph

weight = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))
n_subnetworks = st.integers(2, 5)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def graphs(draw):
    "A random weighted directed graph with at least one edge, and a group label per node"
    n = draw(st.integers(1, 10))
    adjacency = draw(hnp.arrays(np.float64, (n, n), elements=weight).filter(np.any))
    return adjacency, draw(hnp.arrays(np.int64, n, elements=st.integers(-2, 3)))


@st.composite
def modular_networks(draw):
    "Recurrent weights of g dense sub-networks with exactly k interconnections in each direction, and (k, N, g)"
    g, N, rng = draw(n_subnetworks), draw(st.integers(1, 8)), np.random.default_rng(draw(seeds))
    k, skewed = draw(st.integers(0, N * N)), draw(st.booleans())
    recurrent = np.zeros((g * N, g * N))
    for onto in range(g):
        for source in range(g):
            block = rng.uniform(0.01, 1, N * N) * rng.choice([-1, 1], N * N)
            if onto != source:
                block[np.arange(k, N * N) if skewed else rng.permutation(N * N)[k:]] = 0
            recurrent[onto * N:(onto + 1) * N, source * N:(source + 1) * N] = block.reshape(N, N)
    return recurrent, k, N, g


def loop_q(A, g):
    "The paper's definition as a double loop"
    n, M = len(A), A.sum()
    k_out, k_in = [A[i, :].sum() for i in range(n)], [A[:, j].sum() for j in range(n)]
    return sum((A[i, j] - k_out[i] * k_in[j] / M) / M for i in range(n) for j in range(n) if g[i] == g[j])


# --- Q of any graph ---

@given(graphs())
def test_q_is_the_double_sum_of_the_definition(graph):
    assert newman_q(*graph) == pytest.approx(loop_q(*graph), abs=1e-12)


@given(graphs())
def test_q_agrees_with_networkx(graph):
    adjacency, groups = graph
    communities = [set(np.flatnonzero(groups == s).tolist()) for s in np.unique(groups)]
    oracle = nx.community.modularity(nx.from_numpy_array(adjacency, create_using=nx.DiGraph), communities)
    assert newman_q(adjacency, groups) == pytest.approx(oracle, abs=1e-12)


@given(graphs())
def test_q_range(graph):
    assert -0.5 - 1e-12 <= newman_q(*graph) < 1


@given(hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(1e-3, 1e3)), st.integers(0, 99))
def test_weights_that_are_products_have_q_zero(v, seed):
    "in every division, the diagonal included (upstream and downstream, T4)"
    groups = np.random.default_rng(seed).integers(0, 4, len(v))
    assert newman_q(np.outer(v, v), groups) == pytest.approx(0, abs=1e-14)


@given(graphs())
def test_one_group_has_q_zero(graph):
    assert newman_q(graph[0], np.zeros(len(graph[0]), int)) == pytest.approx(0, abs=1e-12)


@given(graphs(), st.permutations(range(6)))
def test_names_of_groups_do_not_matter(graph, names):
    adjacency, groups = graph
    renamed = 7 * np.array(names)[groups + 2] - 20
    assert newman_q(adjacency, renamed) == pytest.approx(newman_q(adjacency, groups), abs=1e-12)


@given(graphs(), st.randoms(use_true_random=False))
def test_order_of_nodes_does_not_matter(graph, random):
    adjacency, groups = graph
    order = list(range(len(groups)))
    random.shuffle(order)
    assert newman_q(adjacency[np.ix_(order, order)], groups[order]) == pytest.approx(newman_q(*graph), abs=1e-12)


@given(graphs(), st.floats(-300, 300))
def test_unit_of_weights_does_not_matter(graph, exponent):
    adjacency, groups = graph
    assert newman_q(10**exponent * adjacency, groups) == pytest.approx(newman_q(adjacency, groups), abs=1e-12)


def test_huge_weights_do_not_overflow():
    assert newman_q(np.full((4, 4), 1e308), [0, 0, 1, 1]) == 0


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.uint8])
def test_narrow_numpy_weights_are_summed_in_float64(dtype):
    adjacency = (100 * np.random.default_rng(0).random((30, 30))).astype(dtype)
    groups = subnetwork_groups(3, 10)
    assert newman_q(adjacency, groups) == pytest.approx(loop_q(adjacency.astype(np.float64), groups), abs=1e-12)


@given(graphs())
def test_arrows_turned_round_give_the_same_q(graph):
    adjacency, groups = graph
    assert newman_q(adjacency.T, groups) == pytest.approx(newman_q(adjacency, groups), abs=1e-12)


@given(graphs())
def test_inputs_are_left_alone_and_may_be_read_only(graph):
    before = [array.copy() for array in graph]
    for array in graph:
        array.setflags(write=False)
    newman_q(*graph)
    assert all((array == old).all() for array, old in zip(graph, before))


DEVICES = ['cpu'] + ['cuda'] * torch.cuda.is_available()

@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_torch_tensors_of_any_dtype(device, dtype):
    dense = torch.block_diag(torch.ones(20, 20), torch.ones(20, 20))
    dense[0, 20:] = dense[20:, 0] = 1                                # 40 rows of uint8 ones sum to more than 255
    adjacency, groups = dense.to(device, dtype), torch.arange(40, device=device) // 20
    assert newman_q(adjacency, groups) == pytest.approx(q_from_sparsity(20 / 400), abs=1e-12)


@pytest.mark.parametrize('bad, message', [
    (np.ones((2, 3)), r'got shape \(2, 3\)'),
    (np.ones(4), r'got shape \(4,\)'),
    (np.ones((5, 2, 2)), 'one at a time'),
    ([[0, -0.5], [1, 0]], r'>= 0, got -0.5 at \[0, 1\]'),
    ([[0, np.nan], [1, 0]], r'finite numbers only, got nan at \[0, 1\]'),
    ([[0, 1], [np.inf, 0]], r'finite numbers only, got inf at \[1, 0\]'),
    (np.zeros((2, 2)), 'got 0 edges'),
    ([['0', '1'], ['1', '0']], 'real numbers, got dtype <U1'),
    (np.ones((2, 2), complex), 'real numbers, got dtype complex128'),
])
def test_what_is_no_graph_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        newman_q(bad, [0, 1])


@pytest.mark.parametrize('groups', [[0], [0, 1, 1], [[0, 1]], 0, [0.0, 1.0], [0, np.nan], ['a', 'b']])
def test_labels_must_be_one_integer_per_node(groups):
    with pytest.raises(ValueError, match=r'one integer per node, shape \(2,\), got'):
        newman_q(np.ones((2, 2)), groups)


def test_no_nodes_are_no_edges():
    with pytest.raises(ValueError, match='got 0 edges'):
        newman_q(np.zeros((0, 0)), np.zeros(0, int))


# --- the closed form ---

@given(modular_networks())
def test_closed_form_is_exact_for_any_placement(network):
    recurrent, k, N, g = network
    q = newman_q(network_adjacency(recurrent), subnetwork_groups(g, N))
    assert q == pytest.approx(q_from_sparsity(k / N**2, n_subnetworks=g), abs=1e-12)


@pytest.mark.parametrize('k', [100, 50, 10, 1, 0])
def test_block_graph_of_the_paper(k):
    "p of 1, .5, .1, 1/N^2 and 0, interconnections at random places (causes, B3); networkx agrees"
    N, rng = 10, np.random.default_rng(k)
    A = np.kron(np.eye(2), np.ones((N, N)))
    for block in A[:N, N:], A[N:, :N]: block.flat[rng.permutation(N * N)[:k]] = 1
    p, groups = k / N**2, subnetwork_groups(2, N)
    by_networkx = nx.community.modularity(nx.from_numpy_array(A, create_using=nx.DiGraph),
                                          [set(range(N)), set(range(N, 2 * N))])
    assert newman_q(A, groups) == pytest.approx((1 - p) / (2 * (1 + p)), abs=1e-12) == pytest.approx(by_networkx)


@given(st.floats(0, 1))
def test_two_subnetworks_give_the_formula_of_the_paper(p):
    assert q_from_sparsity(p) == pytest.approx(0.5 * (1 - p) / (1 + p), rel=1e-14, abs=0)


@given(st.floats(0, 1), st.integers(2, 50))
def test_general_form(p, g):
    assert q_from_sparsity(p, g) == pytest.approx(1 / (1 + (g - 1) * p) - 1 / g, abs=1e-15)


@pytest.mark.parametrize('g', range(2, 200))
def test_ends_are_exact(g):
    assert q_from_sparsity(1.0, g) == 0 and q_from_sparsity(0.0, g) == (g - 1) / g
    assert sparsity_from_q(0.0, g) == 1 and sparsity_from_q((g - 1) / g, g) == 0


@given(st.floats(0, 1), st.integers(2, 50))
def test_sparsity_comes_back(p, g):
    assert sparsity_from_q(q_from_sparsity(p, g), g) == pytest.approx(p, abs=1e-13)


@given(st.floats(0, 1), st.integers(2, 50))
def test_q_comes_back(share, g):
    q = share * ((g - 1) / g)
    assert q_from_sparsity(sparsity_from_q(q, g), g) == pytest.approx(q, abs=1e-13)


@pytest.mark.parametrize('n_hidden', [2, 10, 100])
def test_every_connection_count_is_told_apart(n_hidden):
    p = np.arange(1, n_hidden**2 + 1) / n_hidden**2
    q = q_from_sparsity(p)
    assert (np.diff(q) < 0).all()
    assert (np.rint(sparsity_from_q(q) * n_hidden**2) == np.arange(1, n_hidden**2 + 1)).all()


@pytest.mark.parametrize('convert', [q_from_sparsity, sparsity_from_q])
def test_numbers_give_floats_and_arrays_give_arrays(convert):
    for number in [0, 0.25, np.float32(0.25), np.array(0.25), torch.tensor(0.25)]:
        assert type(convert(number)) is float
    for array in [[0.25, 0.5], np.array([0.25, 0.5]), torch.tensor([0.25, 0.5])]:
        result = convert(array)
        assert result.dtype == np.float64 and result.tolist() == [convert(0.25), convert(0.5)]
    assert convert(np.full((2, 3), 0.25)).shape == (2, 3)
    assert convert([]).shape == (0,)


@pytest.mark.parametrize('convert, name, upper', [(q_from_sparsity, 'p ', 1), (sparsity_from_q, 'q of 2 sub', 0.5)])
@pytest.mark.parametrize('bad', [-1e-9, 1.1, 11, np.nan, np.inf, [0.2, np.nan], '1e-3', None, 1j, True])
def test_values_out_of_range_are_refused(convert, name, upper, bad):
    with pytest.raises(ValueError, match=rf'^{name}.* in \[0, {upper}\], got '):
        convert(bad)


def test_range_of_q_grows_with_the_number_of_subnetworks():
    assert sparsity_from_q(0.6, n_subnetworks=4) > 0
    with pytest.raises(ValueError, match=r'q of 2 sub-networks must be in \[0, 0.5\], got 0.6'):
        sparsity_from_q(0.6)


@pytest.mark.parametrize('bad', [1, 0, -2, 2.0, '2', True, None, float('nan')])
@pytest.mark.parametrize('convert', [q_from_sparsity, sparsity_from_q])
def test_number_of_subnetworks_is_a_whole_number_from_two(convert, bad):
    with pytest.raises(ValueError, match='n_subnetworks must be a whole number >= 2, got'):
        convert(0.1, n_subnetworks=bad)


@pytest.mark.parametrize('g', [3, 200])
def test_small_integer_types_lose_nothing(g):
    assert q_from_sparsity(0.0, np.uint8(g)) == (g - 1) / g
    assert sparsity_from_q((g - 1) / g, np.uint8(g)) == 0


# --- from weights to a graph ---

@given(hnp.arrays(np.float64, (6, 6), elements=st.sampled_from([0.0, -0.0, 0.3, -0.3, 1e-300])))
def test_edges_run_along_the_weights(recurrent):
    adjacency = network_adjacency(recurrent)
    assert adjacency.shape == (6, 6) and adjacency.dtype == np.int64
    for i, j in np.ndindex(6, 6):
        assert adjacency[j, i] == (recurrent[i, j] != 0)


def test_an_edge_carries_a_state_from_its_tail_to_its_head():
    recurrent = np.zeros((4, 4))
    recurrent[3, 1] = -0.2
    reached = recurrent @ np.eye(4)[1]                               # one step of W h with unit 1 active
    assert np.flatnonzero(reached).tolist() == np.flatnonzero(network_adjacency(recurrent)[1]).tolist() == [3]


@pytest.mark.parametrize('device', DEVICES)
def test_trained_weights_may_carry_gradients(device):
    recurrent = torch.tensor([[0.1, 0.0], [-0.2, 0.3]], device=device, requires_grad=True)
    assert network_adjacency(recurrent).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize('bad', [np.ones((2, 3)), np.ones((1, 2, 2)), [[np.nan]], [[np.inf]], [['a']]])
def test_what_is_no_weight_matrix_is_refused(bad):
    with pytest.raises(ValueError, match='^recurrent must '):
        network_adjacency(bad)


@given(st.integers(1, 5), st.integers(1, 8))
def test_groups_are_blocks_of_equal_size(S, N):
    groups = subnetwork_groups(S, N)
    assert groups.shape == (S * N,) and (np.diff(groups) >= 0).all()
    assert np.bincount(groups).tolist() == [N] * S


@pytest.mark.parametrize('sizes, name', [((0, 3), 'n_subnetworks'), ((2, 0), 'n_hidden'), ((2, 1.5), 'n_hidden')])
def test_groups_need_whole_sizes(sizes, name):
    with pytest.raises(ValueError, match=f'{name} must be a whole number >= 1, got'):
        subnetwork_groups(*sizes)


# --- two sides of the inputs ---

SIDES = np.repeat([0, 1], 4)
HALVES = np.concatenate([np.repeat([0, 1], n // 2) for n in (8, 8, 4)])


def random_layers(sizes=(8, 8, 4), n=3, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(size=(n, units, inputs))) for inputs, units in zip(sizes, sizes[1:])]


def towers(layers):
    "The same without the weights between the two halves of each layer"
    def halved(W): return W * torch.tensor(np.kron(np.eye(2), np.ones((W.shape[1] // 2, W.shape[2] // 2))))
    return [halved(W) for W in layers]


def test_planted_score_of_dense_and_split_networks():
    "0 with equal halves and 1 (causes, B4), whatever the weights of a split network; -1/17 where all units are ties"
    dense = [torch.full((1, 8, 8), .1), torch.full((1, 4, 8), .1)]
    assert split_score(undirected_graph(dense)[0], HALVES) == pytest.approx(0, abs=1e-12)
    assert planted_score(dense, SIDES).tolist() == pytest.approx([-1 / 17], abs=1e-12)
    assert planted_score(towers(random_layers()), SIDES).tolist() == pytest.approx([1] * 3, abs=1e-12)
    assert (unit_sides(towers(random_layers()), SIDES) == torch.tensor(HALVES)).all()


@given(seeds)
def test_planted_score_by_definition(seed):
    "Q over one less the squared shares, units on the side of the larger path sum; no more than 1"
    layers = random_layers(seed=seed, n=2)
    labels, graph = unit_sides(layers, SIDES), undirected_graph(layers).numpy()
    for k, r in enumerate(planted_score(layers, SIDES).tolist()):
        W_1, W_2 = (abs(W[k].numpy()) for W in layers)
        paths = np.concatenate([np.eye(8), W_1, W_2 @ W_1])          # (nodes, inputs)
        assert (labels[k].numpy() == (paths[:, 4:].sum(1) > paths[:, :4].sum(1))).all()
        degrees = graph[k].sum(0) / graph[k].sum()
        room = 1 - sum(degrees[labels[k] == side].sum()**2 for side in (0, 1))
        assert r == pytest.approx(newman_q(graph[k], labels[k]) / room, abs=1e-12) and r <= 1 + 1e-12


@given(seeds, st.permutations(range(8)))
def test_planted_score_needs_no_names(seed, order):
    "neither which side is the first, nor the order of inputs, nor signs, nor the unit of weights"
    first, second = random_layers(seed=seed)
    r = planted_score([first, second], SIDES).tolist()
    assert planted_score([first, second], 1 - SIDES).tolist() == pytest.approx(r, abs=1e-12)
    assert planted_score([-first[..., order], second], SIDES[order]).tolist() == pytest.approx(r, abs=1e-12)
    assert planted_score([7 * first, 7 * second], torch.tensor(SIDES)).tolist() == pytest.approx(r, abs=1e-12)


@given(seeds)
def test_ties_are_ties_in_any_order_of_summation(seed):
    "The right half has the weights of the left, in another order"
    W = torch.tensor(np.random.default_rng(seed).uniform(.01, 1, (2, 8, 4)))
    order = np.random.default_rng(seed).permutation(4)
    mirrored = [torch.cat([W, W[..., order]], 2), random_layers(n=2)[1]]
    assert (unit_sides(mirrored, SIDES)[:, 8:] == -1).all()


def test_inputs_of_neither_side_and_units_that_hear_nothing():
    layers = towers(random_layers())
    layers[0][:, 2] = 0
    labels = unit_sides(layers, [0, 0, 0, -1, -1, 1, 1, 1])
    assert (labels[:, [3, 4, 10]] == -1).all() and (labels[:, [0, 7, 8, 15]] == torch.tensor([0, 1, 0, 1])).all()
    graph = undirected_graph(layers)[0]
    assert split_score(graph, labels[0]) < 1 and modularity(graph, labels[0]) < modularity(graph, HALVES)


def test_nothing_to_split():
    "is 0: no edges, or one side with all of them"
    empty, one_sided = [torch.zeros(2, 8, 8), torch.zeros(2, 4, 8)], random_layers()
    one_sided[0][..., 4:] = 0
    assert planted_score(empty, SIDES).tolist() == [0, 0] and planted_score(one_sided, SIDES).tolist() == [0, 0, 0]
    assert planted_score(one_sided, SIDES).dtype == torch.float64


@pytest.mark.parametrize('bad', [[0, 1], [0] * 7 + [2], [0] * 7 + [-2], [0.5] * 8, ['a'] * 8, [[0] * 8], [np.nan] * 8])
def test_sides_must_fit_the_inputs(bad):
    for ask in unit_sides, planted_score:
        with pytest.raises(ValueError, match='^sides must be 0, 1 or -1 for each of 8 inputs'):
            ask(random_layers(), bad)
