"""What the explorer draws and silences, and its panels without a browser; test_browser.py has one with"""
import json
import re
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import ipywidgets as widgets
import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from nbdev.config import get_config

from modspec.analysis.panel import WITHOUT
from modspec.analysis.specialization import normalized_difference
from modspec.analysis.tables import read_table
from modspec.core.data import as_inputs, embedded_digits
from modspec.core.tasks import held_out_pairs
from modspec.explorer import cluster, learning, position, strength
from modspec.explorer.response import draw_response, respond, response_panel, silence, silenceable
from modspec.measures.associations import associations, dead_units, layer_modules, without_units
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, decide, directions, init_stack, readouts, sparsities
from modspec.studies.causes.panel import RETINA_MEASURES, RETINA_PREFIXES, retina_part
from modspec.studies.everything.table import cell
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


# a cause and its strength

@pytest.fixture(scope='module')
def causes(): return read_table(ROOT / 'results' / 'causes_retina')


@pytest.fixture(scope='module')
def part(causes): return retina_part(causes, RETINA_MEASURES, RETINA_PREFIXES)


@pytest.fixture(scope='module')
def curves(part): return strength.strength_curves(part)


@pytest.mark.parametrize(('measure', 'name', 'sign'), [('Q*', 'q_max', 1), ('n-cut', 'ncut', -1), ('FI', 'fi', 1)])
def test_curves_are_means_of_the_table(causes, curves, measure, name, sign):
    "Values and nulls at every stop, turned so that up is modular; all causes begin at the same networks"
    means = causes[causes['trained']].groupby(['variation', 'measure'])['value'].mean()
    of = curves[curves['measure'] == measure]
    assert set(of[of['place'] == 0]['point']) == {WITHOUT} and of['null'].nunique() > 1
    for _, row in of.iterrows():
        column = f'{name}_{row["null"]}_mean' if row['null'] else name
        assert row['mean'] == pytest.approx(sign * means[row['point'], column])
        assert row['low'] <= row['mean'] <= row['high']


def test_stops_go_from_none_to_strong(part):
    for cause in part.points['cause'].unique():
        (first, none), *others = strength.strengths_of_cause(part, cause).items()
        strengths = [float(label) for _, label in others]
        assert (first, none) == (WITHOUT, 'none') and strengths == sorted(set(strengths)) and strengths[0] > 0


@pytest.mark.parametrize('cause', [*RETINA_PREFIXES])
def test_large_dots_are_on_the_curves(part, curves, cause):
    "at the chosen strength: one for the value, one for each null, and a small one for every network"
    stops = [*strength.strengths_of_cause(part, cause)]
    fig = strength.draw_strength(part, curves, cause, stops[-1])
    for ax, (measure, column) in zip(fig.axes, part.measures.items()):
        here = curves[(curves['cause'] == cause) & (curves['measure'] == measure) & (curves['place'] == len(stops) - 1)]
        large = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == 'o' and len(line.get_xdata()) == 1]
        assert sorted(large) == pytest.approx(sorted(here['mean']))
        small, = (line.get_ydata() for line in ax.lines if line.get_marker() == '.')
        assert sorted(small) == sorted(part.networks.loc[stops[-1], column])


def test_verdicts_are_those_of_the_table(part):
    "in words, at every strength of every cause; nothing is said of networks without a cause"
    for point in part.points.index:
        for measure in part.measures:
            row = cell(part, point, measure)
            said = strength.effect_in_words(row)
            assert ('not clear' in said) == (not row['clear'])
            assert said.endswith('modular, more so than the nulls') == row['survives']
            assert ('more modular' in said) == (row['low'] > 0) and ('less modular' in said) == (row['high'] < 0)


def test_strength_panel(part):
    panel = strength.strength_panel(part)
    cause, = find(panel, widgets.Dropdown)
    (slider,), (image,) = find(panel, widgets.SelectionSlider), find(panel, widgets.Image)
    pictures = [bytes(image.value)]
    slider.value = WITHOUT
    pictures.append(bytes(image.value))
    cause.value = 'dropout'
    assert [label for label, _ in slider.options] == ['none', '0.1', '0.25', '0.5'] and slider.value != WITHOUT
    pictures.append(bytes(image.value))
    slider.value = 'dropout_3'
    pictures.append(bytes(image.value))
    assert len(set(pictures)) == 4


# a unit and its cluster

@pytest.fixture(scope='module')
def layered():
    "An untrained network; its fifth unit of the first layer is dead"
    network = init_feedforward(FeedForward(64, (16, 12)), [1])
    network.weights['b_1'][0, 0, 4] = -100
    return network


@pytest.fixture(scope='module')
def layer(layered, dataset): return cluster.clustered_layer(layered, dataset.test, layer=1)


@pytest.mark.parametrize('number', [1, 2])
def test_clusters_are_those_of_the_measures(layered, dataset, number):
    layer, x = cluster.clustered_layer(layered, dataset.test, layer=number), as_inputs(dataset.test.images)
    A = associations(layered, x, dataset.test.labels, layer=number)
    A = without_units(A, dead_units(layered, x, layer=number))
    for way, name in cluster.UNIT_WAYS.items():
        assert layer.associations[way].tolist() == A[name][0].tolist()
        assert layer.clusters[way].tolist() == layer_modules({name: A[name]}, layered.seeds)[name][0].tolist()


def test_slopes(layered, dataset, layer):
    "Of the first layer by the pixels, its weights where a unit is active; of the read-outs by the last layer, theirs"
    weights, x = layered.weights, as_inputs(dataset.test.images)
    active = (x @ weights['W_1'][0, 0].T + weights['b_1'][0, 0] > 0).float().mean(0)
    expected = weights['W_1'][0, 0].abs() * active.sqrt()[:, None]
    np.testing.assert_allclose(layer.listens, expected.numpy(), rtol=1e-4)
    last = cluster.clustered_layer(layered, dataset.test, layer=2)
    np.testing.assert_allclose(last.speaks, weights['W_out'][0, 0].abs().T.numpy(), rtol=1e-4)
    assert layer.speaks.shape == (16, 10) and last.listens.shape == (12, 64)


@pytest.mark.parametrize('labels', [[0, 1, 2, 1, 2, 2], [-1, 3, -1, 0, 3, -1, -1], [5], [-1, -1]])
def test_order_of_clusters(labels):
    "Every unit once, cluster by cluster, larger ones first, those without one at the end"
    order = cluster.cluster_order(np.array(labels))
    assert sorted(order) == [*range(len(labels))]
    kept = [labels[unit] for unit in order]
    runs = [*dict.fromkeys(kept)]
    assert kept == [name for name in runs for _ in range(labels.count(name))]
    sizes = [labels.count(name) for name in runs if name >= 0]
    assert sizes == sorted(sizes, reverse=True) and -1 not in runs[:-1]


def test_frame_holds_the_cluster(layer):
    "of the chosen unit, and the columns beside it mark both of its clusters"
    for way in cluster.UNIT_WAYS:
        for unit in (0, 7, 15):
            ax, marks = Figure().subplots(1, 2)
            order = cluster.draw_associations(layer, unit, way, ax)
            frame, = (patch for patch in ax.patches if isinstance(patch, Rectangle))
            inside = order[round(frame.get_y() + 0.5):][:round(frame.get_height())]
            mates = np.flatnonzero(layer.clusters[way] == layer.clusters[way][unit])
            assert unit in inside and sorted(inside) == mates.tolist()
            assert ax.images[0].get_array().tolist() == layer.associations[way][np.ix_(order, order)].tolist()
            cluster.draw_marks(layer, unit, order, marks)
            colored = (marks.images[0].get_array() != 1).any(-1)
            for column, labels in zip(colored.T, layer.clusters.values()):
                assert sorted(order[column]) == np.flatnonzero(labels == labels[unit]).tolist()


def test_units_in_both_clusters(layer):
    "by chance: what dealing the other units out anew gives on average"
    up, down, both, chance = cluster.mates_in_both(layer, 0)
    a, b = layer.clusters.values()
    assert (up, down, both) == ((a == a[0]).sum(), (b == b[0]).sum(), ((a == a[0]) & (b == b[0])).sum())
    rng, others = np.random.default_rng(0), np.flatnonzero(a >= 0)[1:]
    drawn = [((a == a[0])[others] & (b == b[0])[rng.permutation(others)]).sum() + 1 for _ in range(3000)]
    assert chance == pytest.approx(np.mean(drawn), abs=0.1)
    assert f'{both} in both' in cluster.unit_in_words(layer, 0)


def test_a_dead_unit_has_no_cluster(layer):
    assert layer.clusters['upstream'][4] == layer.clusters['downstream'][4] == -1
    assert cluster.mates_in_both(layer, 4) == (0, 0, 0, 0)
    assert 'no cluster' in cluster.draw_unit(layer, 4).get_suptitle()


def test_a_dead_layer_can_be_drawn(layered, dataset):
    dead = init_feedforward(FeedForward(64, (5,)), [0])
    dead.weights['b_1'] -= 100
    layer = cluster.clustered_layer(dead, dataset.test, layer=1)
    assert 'no cluster' in cluster.draw_unit(layer, 0).get_suptitle()


def test_cluster_panel(layered, dataset, layer):
    "The slider goes through all units, those of one upstream cluster in a row"
    other = init_feedforward(FeedForward(64, (16, 12)), [2])
    panel = cluster.cluster_panel({'one': other, 'two': layered}, dataset)
    (network, depth), (image,) = find(panel, widgets.Dropdown), find(panel, widgets.Image)
    slider, = find(panel, widgets.SelectionSlider)
    assert [*slider.options] == cluster.cluster_order(layer.clusters['upstream']).tolist()
    pictures = [bytes(image.value)]
    slider.index = 9
    pictures.append(bytes(image.value))
    depth.value = 2
    assert sorted(slider.options) == [*range(12)]
    pictures.append(bytes(image.value))
    network.value = 'one'
    pictures.append(bytes(image.value))
    assert len(set(pictures)) == 4


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
    assert sorted(name for _, name in shown) == [path.name for path in PICTURES]
    panels = [name for name in re.findall(r'^(\w+)_panel\(', text, flags=re.M)]
    assert [name for _, name in shown] == [f'explorer_{name}.png' for name in panels]
    for path in PICTURES:
        assert path.stat().st_size < 200_000 and matplotlib.image.imread(path)[..., :3].std() > 0.02


def test_what_the_page_reads_is_shipped():
    "with its table, in the wheel; otherwise an installed explorer would stop"
    text = '\n'.join(''.join(cell['source']) for cell in json.loads(NOTEBOOK.read_text())['cells'])
    read = set(re.findall(r"'results' / '(\w+)'", text))
    patterns = get_config().d['shipped'].split()
    shipped = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    assert read
    for name in read:
        assert {f'results/{name}/{file}' for file in ('manifest.json', 'networks.parquet', 'values.parquet')} <= shipped
