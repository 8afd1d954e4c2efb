"""Shuffles keep what they say, and a value is placed among its draws"""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modspec.core.streams import generators
from modspec.measures.nulls import SHUFFLES, against_null, null_draws, shuffled
from modspec.networks.graph import block_graph, network_blocks
from modspec.networks.recurrent import Recurrent, init_stack


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99), st.sampled_from(SHUFFLES))
def test_weights_stay_in_their_network_and_layer(networks, rows, columns, seed, kind):
    "B8; and those of the support stay in their places"
    W = torch.randn(networks, rows, columns, generator=torch.Generator().manual_seed(seed)).relu()
    drawn = shuffled(W, kind, streams=generators(range(networks), 'test'))
    assert torch.equal(drawn.flatten(1).sort().values, W.flatten(1).sort().values)
    if kind == 'support': assert torch.equal(drawn != 0, W != 0)
    alone = shuffled(W[-1:], kind, streams=generators([networks - 1], 'test'))
    assert torch.equal(alone[0], drawn[-1])


def test_every_place_is_as_likely():
    W = torch.arange(1., 5.).view(1, 2, 2)
    source = generators([0], 'test')
    drawn = torch.stack([shuffled(W, streams=source) for _ in range(2000)])
    torch.testing.assert_close(drawn.mean(0), torch.full((1, 2, 2), 2.5), rtol=0, atol=.12)


@pytest.mark.parametrize('low', [False, True])
def test_against_null(low):
    value, draws = torch.tensor([0., 5.]), torch.tensor([[0., 1.], [2., 3.], [4., 5.]])
    found = against_null('x', 'layer', value, draws, low=low)
    assert found['x_layer_mean'].tolist() == [2, 3] and found['x_layer_sd'].tolist() == [2, 2]
    assert found['x_layer_p'].tolist() == ([.5, 1.] if low else [1., .5])


def test_refused():
    W = torch.ones(2, 3, 4)
    with pytest.raises(ValueError, match="kind must be one of .*got 'degree'"):
        shuffled(W, 'degree', streams=generators([0, 1], 'test'))
    for wrong in (W[0], W[:1]):
        with pytest.raises(ValueError, match='one generator per network'):
            shuffled(wrong, streams=generators([0, 1], 'test'))
    with pytest.raises(ValueError, match='at least 2 draws'): against_null('x', 'y', torch.ones(2), torch.ones(1, 2))


def test_a_shuffled_network_keeps_the_links_of_every_direction():
    "and the weights of every block, and its layout; the whole matrix as one block keeps neither"
    stack = init_stack(Recurrent(16, n_hidden=6, n_bottleneck=2), [3, 4], [2 / 36, 1.])
    blocks = network_blocks(stack)
    assert blocks.n_nodes == 2 * (6 + 2 + 10)
    drawn, again = (next(null_draws(blocks, 'layer', 1, seeds=stack.seeds, purpose='test')) for _ in range(2))
    assert drawn.starts == blocks.starts
    for before, after, same in zip(blocks.matrices, drawn.matrices, again.matrices):
        assert torch.equal(before.flatten(1).sort().values, after.flatten(1).sort().values)
        assert torch.equal(after, same)
    graph = block_graph(drawn)
    assert torch.equal(graph, graph.mT) and not graph.diagonal(dim1=1, dim2=2).any()
    assert not graph[:, :12, 16:].any()  # no recurrent unit reaches a read-out past the bottleneck
