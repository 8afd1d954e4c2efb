"""What the explorer draws and silences, and its panels without a browser; test_browser.py has one with"""
import json
import re
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import ipywidgets as widgets
import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure

from modspec.analysis.specialization import normalized_difference
from modspec.analysis.tables import read_table
from modspec.core.data import embedded_digits
from modspec.core.tasks import held_out_pairs
from modspec.explorer import learning, position
from modspec.explorer.response import draw_response, respond, response_panel, silence, silenceable
from modspec.networks.recurrent import Recurrent, decide, directions, init_stack, readouts, sparsities
from modspec.studies.extreme_sparsity.drawing import subnetwork_color
from modspec.training.loop import NonFiniteLoss, final_states
from modspec.training.parameters import Parameters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / 'nbs' / 'explorer' / 'explore.ipynb'
CHAPTERS = sorted(NOTEBOOK.parent.glob('*.ipynb'))
PICTURES = sorted((ROOT / 'nbs' / 'images').glob('explorer_*.png'))


@pytest.fixture(scope='module')
def dataset(): return embedded_digits()


@pytest.fixture(scope='module')
def means(): return position.sweep_means(read_table(ROOT / 'results' / 'paper'))


@pytest.fixture(scope='module')
def networks(means):
    stops = sorted(set(means[0]['x']))
    return init_stack(Recurrent(64), [0] * len(stops), stops)


@pytest.fixture(params=[0, 5], ids=['standard', 'bottleneck'])
def network(request): return init_stack(Recurrent(64, n_hidden=12, n_bottleneck=request.param), [3], 0.1)


@pytest.fixture
def pair(dataset):
    index = held_out_pairs(dataset.test)[:, 0]
    return dataset.test.images[index], dataset.test.labels[index]


def find(panel, kind):
    "The widgets of one kind in a panel"
    inner = [found for child in getattr(panel, 'children', ()) for found in find(child, kind)]
    return [panel, *inner] if type(panel) is kind else inner


# along Fig. 3

def test_raw_means_are_those_of_the_table(means):
    table = read_table(ROOT / 'results' / 'paper')
    points, raw = means
    rows = table[(table['measure'] == 'weight_mask') & table['trained'] & (table['sparsity'] == 0.1)]
    matrices = rows.sort_values(['seed', 'subnetwork', 'subtask'])['value'].to_numpy(float).reshape(-1, 2, 2)
    shown = raw[(raw['measure'] == 'weight_mask') & (raw['sparsity'] == 0.1)]
    assert shown['value'].to_numpy() == pytest.approx(matrices.mean(0).ravel())
    shown = points[(points['measure'] == 'weight_mask') & (points['x'] == 0.1) & points['trained']]
    assert shown['mean'].item() == pytest.approx(normalized_difference(matrices).mean())


def test_every_stop_of_the_slider_can_be_drawn(means, networks):
    "also the sparsest and the densest, with the numbers that belong there"
    for k, (count, q) in {0: ('1 connection each', '0.500'), 20: ('10,000 connections each', '0.000')}.items():
        fig = position.draw_position(*means, networks[k])
        assert count in fig.get_suptitle() and q in fig.get_suptitle()


@pytest.mark.parametrize('S', [1, 2, 3])
@pytest.mark.parametrize(('p', 'size'), [(1e-4, 5), (0.01, 3), (0.5, 1)])
def test_mask_shows_where_the_connections_are(p, size, S):
    "in the rows of the receiver and the columns of the sender; a single one as a square of 5 x 5"
    network = init_stack(Recurrent(64, n_subnetworks=S), [1], p if S > 1 else 1.)
    ax = position.draw_mask(network, Figure().add_subplot())
    picture = ax.images[0].get_array()
    assert picture.shape == (100 * S, 100 * S, 3) and len(ax.get_xticks()) == S
    def block(n, m): return picture[100 * n:100 * n + 100, 100 * m:100 * m + 100]
    for n in range(S):
        dense, color = block(n, n), matplotlib.colors.to_rgb(subnetwork_color(n))
        assert (dense == dense[0, 0]).all() and dense[0, 0].tolist() == pytest.approx([0.7 + 0.3 * c for c in color])
    for (n, m), W in zip(directions(S), network.weights['W_sparse'][0]):
        colored = (block(n, m) == matplotlib.colors.to_rgb(subnetwork_color(m))).all(-1)
        assert colored[W != 0].all() and colored.sum() <= size**2 * network.n_connections[0]
        assert (block(n, m)[~colored] == 1).all()


def test_position_outside_the_sweep(means):
    with pytest.raises(ValueError, match='sparsity must be one of .*, got 0.02'):
        position.draw_position(*means, init_stack(Recurrent(64), [0], 0.02))


def test_slider_changes_the_picture(means, networks):
    panel = position.position_panel(*means, networks)
    (slider,), (image,) = find(panel, widgets.SelectionSlider), find(panel, widgets.Image)
    assert [value for _, value in slider.options] == sparsities(networks)
    first = bytes(image.value)
    slider.value = 0.0001
    assert bytes(image.value).startswith(b'\x89PNG') and bytes(image.value) != first
    slider.value = 0.01
    assert bytes(image.value) == first


# silence

def test_response_is_the_networks(network, dataset):
    "of the library's functions, for each of a few pairs"
    pairs = held_out_pairs(dataset.test)[:, :5]
    (h, _), = final_states(network, dataset.test, pairs[None])
    r = readouts(network.weights, h)
    output, winner = decide(r)
    for k in range(5):
        response = respond(network, dataset.test.images[pairs[:, k]])
        torch.testing.assert_close(response.states[-1], h[0, ..., k])
        torch.testing.assert_close(response.readouts, r[0, ..., k])
        assert (response.decider, response.answer) == (winner[0, k], output[0, :, k].argmax())


@pytest.mark.parametrize('n', [0, 1])
def test_silent_subnetwork(network, pair, n):
    "has no states, never decides, and the other one no longer hears it; the network is left as it was"
    before = {name: w.clone() for name, w in network.weights.items()}
    silent = silence(network, [n])
    response = respond(silent, pair[0])
    assert not response.states[:, n].any() and response.decider == 1 - n
    assert response.readouts[n].tolist() == [-torch.inf] * 10 and response.readouts[1 - n].isfinite().all()
    d = [receiver for receiver, _ in directions()].index(1 - n)
    alone = respond(silence(network, [(d,)]), pair[0])
    torch.testing.assert_close(response.states[:, 1 - n], alone.states[:, 1 - n])
    assert all(torch.equal(before[name], w) for name, w in network.weights.items())


def test_all_silent(network, pair):
    response = respond(silence(network, [0, 1]), pair[0])
    assert response.decider is None and response.answer is None
    assert 'nobody answers' in draw_response(network, *pair, parts=[0, 1]).get_suptitle()


def test_silent_connection(network, pair):
    "is the only weight that changes, and it changes the states of its receiver"
    label, (d, i, j) = silenceable(network)[4]
    silent = silence(network, [(d, i, j)])
    changed = {name: (w != network.weights[name]).sum().item() for name, w in silent.weights.items()}
    assert {name: count for name, count in changed.items() if count} == {'W_sparse': 1}
    receiver, sender = directions()[d]
    assert label.startswith(f'{sender} → {receiver}: unit {j} → unit {i}')
    now, whole = (respond(which, pair[0]).states for which in (silent, network))
    assert torch.equal(now[0], whole[0]) and not torch.equal(now[1, receiver], whole[1, receiver])


def test_silenceable_parts(network):
    labels, parts = zip(*silenceable(network, most=3))
    assert parts[:4] == (0, 1, (0,), (1,)) and len(set(labels)) == len(parts) == 4 + 2 * 3
    for d in range(2):
        W = network.weights['W_sparse'][0, d].abs()
        assert [W[i, j].item() for e, i, j in parts[4:] if e == d] == W.flatten().topk(3).values.tolist()


def test_absolute_decision_is_refused():
    "there, -inf would win"
    network = init_stack(Recurrent(64, decision='absolute'), [0], 0.1)
    with pytest.raises(ValueError, match="decision must be 'max', got 'absolute'"): silence(network, [0])


def test_response_panel(dataset):
    networks = {str(n): init_stack(Recurrent(64), [n], 0.001) for n in range(2)}
    choice = widgets.Dropdown(options=[*networks])
    panel = response_panel(choice, networks, dataset)
    (parts,), (image,) = find(panel, widgets.SelectMultiple), find(panel, widgets.Image)
    pair, = find(panel, widgets.BoundedIntText)
    pictures = [bytes(image.value)]
    parts.value = (0,)
    pictures.append(bytes(image.value))
    pair.value = 1
    pictures.append(bytes(image.value))
    choice.value = '1'
    pictures.append(bytes(image.value))
    assert parts.value == () and len(set(pictures)) == 4


@pytest.mark.parametrize('S', [1, 3])
def test_other_numbers_of_sub_networks(dataset, S):
    "a row of pictures for each; those that are silent do not decide"
    network = init_stack(Recurrent(64, n_hidden=12, n_subnetworks=S), [3], 0.1 if S > 1 else 1.)
    index = held_out_pairs(dataset.test, n_subnetworks=S)[:, 0]
    images, shown = dataset.test.images[index], dataset.test.labels[index]
    fig = draw_response(network, images, shown, parts=range(S - 1))
    assert len(fig.axes) == 3 * S and respond(silence(network, range(S - 1)), images).decider == S - 1
    parts = dict(silenceable(network, most=2))
    assert [part for part in parts.values() if isinstance(part, int)] == [*range(S)]
    assert len(parts) == S + 3 * S * (S - 1)
    for d, (n, m) in enumerate(directions(S)):
        silent = silence(network, [parts[f'all connections {m} → {n}']])
        changed = (silent.weights['W_sparse'] != network.weights['W_sparse'])[0].flatten(1).any(1)
        assert changed.nonzero().tolist() == [[d]]


# training

def test_button_trains(dataset, monkeypatch):
    "a new network with each press; the button works again afterwards, also after an error"
    monkeypatch.setattr(learning, 'LIVE', Parameters(epochs=2, n_pairs=64, batch_size=32))
    found = {}
    panel = learning.training_panel(dataset, [0.01, 0.1], found.__setitem__)
    (button,), (image,) = find(panel, widgets.Button), find(panel, widgets.Image)
    before = bytes(image.value)
    button.click()
    button.click()
    assert [*found] == ['fresh, p = 0.1, seed 1', 'fresh, p = 0.1, seed 2'] and bytes(image.value) != before
    first, second = found.values()
    assert sparsities(first) == [0.1] and not torch.equal(first.weights['W_hh'], second.weights['W_hh'])

    def fail(*_, **__): raise NonFiniteLoss('no more')
    monkeypatch.setattr(learning, 'train_by_epoch', fail)
    button.click()  # ipywidgets reports the error and goes on
    assert not button.disabled and len(found) == 2


# the chapters

@pytest.mark.parametrize('path', CHAPTERS, ids=lambda path: path.stem)
def test_no_widget_is_stored(path):
    "A page of the documentation cannot show them: what is stored are the figures, and on the page to play with nothing"
    outputs = [output for cell in json.loads(path.read_text())['cells'] for output in cell.get('outputs', [])]
    kinds = {kind for output in outputs for kind in output.get('data', {})}
    assert ('image/png' in kinds) == (path.stem not in ('explore', 'live'))
    assert not any('widget' in kind for kind in kinds)
    assert 'VBox(' not in json.dumps(outputs)


def test_pictures_stand_in():
    "for every panel, with a text for those who cannot see them, and small"
    text = '\n'.join(''.join(cell['source']) for cell in json.loads(NOTEBOOK.read_text())['cells'])
    shown = re.findall(r'!\[([^\]]{30,})\]\(\.\./images/(explorer_\w+\.png)\)', text)
    assert sorted(name for _, name in shown) == [path.name for path in PICTURES] and len(shown) == 3
    for path in PICTURES:
        assert path.stat().st_size < 200_000 and matplotlib.image.imread(path)[..., :3].std() > 0.02
