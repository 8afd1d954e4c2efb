"""Pictures of networks of one, two, three and more sub-networks"""
import matplotlib

matplotlib.use('Agg')
import matplotlib.colors
import matplotlib.figure
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection

from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, directions, init_stack
from modspec.studies.extreme_sparsity.drawing import (
    SUBNETWORK_COLORS,
    disc,
    disc_centers,
    plot_architecture,
    subnetwork_color,
)

COUNTS = [1, 2, 3, 4, 5, 10]


def network(S, n_bottleneck=0, n_hidden=9, k=4):
    sparsity = k / n_hidden**2 if S > 1 else 1.
    return init_stack(Recurrent(64, n_hidden=n_hidden, n_subnetworks=S, n_bottleneck=n_bottleneck), [0], sparsity)


def drawn(network, images=None):
    return plot_architecture(network, images, matplotlib.figure.Figure().subplots())


def lines_of(ax): return [c for c in ax.collections if isinstance(c, LineCollection)]


@pytest.mark.parametrize('S', COUNTS)
@pytest.mark.parametrize('B', [0, 5])
def test_every_line_is_an_interconnection(S, B):
    "from the unit that sends to the unit that receives, in the color of the sub-network that sends"
    shown = network(S, B)
    lines, units = lines_of(drawn(shown)), [disc(9, center) for center in disc_centers(S)]
    assert len(lines) == S * (S - 1)
    for d, (receiver, sender) in enumerate(directions(S)):
        i, j = shown.weights['W_sparse'][0, d].numpy().nonzero()
        expected = np.stack([units[sender][j], units[receiver][i]], 1)
        assert len(expected) == 4 and np.allclose(lines[d].get_segments(), expected)
        assert matplotlib.colors.to_hex(lines[d].get_color()[0]) == subnetwork_color(sender).lower()


@pytest.mark.parametrize('S', COUNTS)
def test_everything_is_there_and_inside(S):
    "a disc, a read-out and an image for each sub-network, and no disc on another"
    ax, centers = drawn(network(S), torch.zeros(S, 64, dtype=torch.uint8)), np.array(disc_centers(S))
    assert len(ax.patches) == len(ax.images) == S and len(ax.collections) == 2 * S + S * (S - 1)
    apart = np.linalg.norm(centers[:, None] - centers, axis=-1) + 9 * np.eye(S)
    assert apart.min() > 2 * 1.12
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    boxes = [image.get_extent() for image in ax.images] + [(x - 1.12, x + 1.12, y - 1.12, y + 2.1) for x, y in centers]
    assert all(left <= x0 and x1 <= right and low <= y0 and y1 <= high for x0, x1, y0, y1 in boxes)
    spread = sorted(image.get_extent()[:2] for image in ax.images)
    assert all(a[1] < b[0] for a, b in zip(spread, spread[1:]))


@pytest.mark.parametrize('S', [3, 4])
def test_lines_pass_by_the_discs_between(S):
    "so a line never seems to end where it does not"
    ax, centers = drawn(network(S, k=81)), disc_centers(S)
    for lines, (receiver, sender) in zip(lines_of(ax), directions(S)):
        ends = np.array(lines.get_segments())
        along = ends[:, :1] + np.linspace(0, 1, 200)[None, :, None] * (ends[:, 1:] - ends[:, :1])
        for n in {*range(S)} - {receiver, sender}:
            assert np.linalg.norm(along - centers[n], axis=-1).min() > 0.99


def test_two_sub_networks_as_ever(): assert disc_centers(2) == [(-1.7, 0), (1.7, 0)] and disc_centers(1) == [(0, 0)]


def test_colors_are_those_of_the_figures():
    from modspec.analysis.plot import COLORS
    assert [subnetwork_color(n) for n in (0, 1)] == [COLORS[f'sub-network {n}'] for n in (0, 1)]
    assert len({*SUBNETWORK_COLORS}) == 10


def test_no_interconnection_left():
    "such as after pruning"
    empty = network(2)
    empty.weights['W_sparse'].zero_()
    assert [len(lines.get_segments()) for lines in lines_of(drawn(empty))] == [0, 0]


@pytest.mark.parametrize(('shown', 'images', 'message'), [
    (init_stack(Recurrent(64, n_hidden=4), [0, 1], 1.), None, 'network must be a stack of one, got 2; take stack'),
    (network(3), torch.zeros(2, 64), 'images must be one per sub-network, 3, got 2'),
    (init_feedforward(FeedForward(64), [0]), None, 'network must have sub-networks, got one that is feedforward')])
def test_refused(shown, images, message):
    with pytest.raises(ValueError, match=message): drawn(shown, images)
