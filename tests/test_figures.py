"""What plots and figures draw, refuse and leave alone; how they look is in the chapters"""
import json
import re
import subprocess
import sys
from base64 import b64decode
from dataclasses import asdict
from io import BytesIO
from itertools import product
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from invented import network, results_folder, rows, table_of

from modspec.analysis import plot as plots
from modspec.analysis.specialization import ROLES, specialization, specialization_by_role, summarize
from modspec.analysis.tables import read_table
from modspec.core.files import read_manifest
from modspec.core.registry import entries
from modspec.studies.extreme_sparsity import figures, table_one
from modspec.training.parameters import Parameters

ARCHITECTURES = {'bottleneck': ['bottleneck'], 'accuracy': ['bottleneck', 'standard'],
                 'decision_share': ['bottleneck', 'standard']}
MEASURES = figures.RAW_MEASURES
PLOTS = {
    'specialization': figures.plot_specialization,
    'specialization_q': lambda table, ax=None: figures.plot_specialization(table, ax, 'q'),
    'by_role': lambda table, ax=None: figures.plot_specialization_by_role(table, 'correlation', ax),
    'raw': lambda table, ax=None: figures.plot_raw_measure(table, 'weight_mask', ax),
    'cka': lambda table, ax=None: figures.plot_raw_measure(table, 'cka', ax),
    'accuracy': figures.plot_accuracy}
FIGURES = [figures.figure_specialization, figures.figure_raw_measures, figures.figure_specialization_by_role,
           figures.figure_accuracy]
each_plot = pytest.mark.parametrize('plot', PLOTS.values(), ids=PLOTS)
each_figure = pytest.mark.parametrize('figure', FIGURES, ids=lambda f: f.__name__)


def make_table(sparsities=(1e-4, .01, 1.), seeds=(0, 1, 2)):
    rng, found = np.random.default_rng(0), []
    shapes = dict.fromkeys(MEASURES, (2, 2)) | dict(accuracy=(), decision_share=(2,))
    for (measure, shape), p, seed, trained in product(shapes.items(), sparsities, seeds, (True, False)):
        for name in ARCHITECTURES.get(measure, ['standard']):
            found += rows(network(p, seed, trained, name), measure, rng.uniform(.1, .9, shape))
    return table_of(found)


def line(ax, label):
    [found] = [line for line in ax.get_lines() if line.get_label() == label]
    return found


@pytest.fixture
def table(): return make_table()


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    def refuse(*args, **kwargs): raise AssertionError('a plot must neither show nor save')
    monkeypatch.setattr(plt, 'show', refuse)
    monkeypatch.setattr(plt, 'savefig', refuse)
    before = matplotlib.rcParams.copy()
    yield
    assert matplotlib.rcParams == before, 'a global setting was changed'
    plt.close('all')


# what every plot keeps to

@each_plot
def test_draws_on_the_axes_given(plot, table):
    with plots.use_style(): fig, (ax, untouched) = plt.subplots(1, 2, figsize=(7, 3))
    before = table.copy()
    assert plot(table, ax) is ax
    assert ax.get_lines() and not untouched.get_lines() and plt.get_fignums() == [fig.number]
    pd.testing.assert_frame_equal(table, before)
    fig.draw_without_rendering()


@each_plot
def test_makes_axes_of_column_width(plot, table):
    fig = plot(table).figure
    assert fig.get_size_inches()[0] == plots.COLUMN_WIDTH
    fig.draw_without_rendering()  # warns, thus fails, where the legend leaves no room


@each_plot
def test_labels_say_n_and_axis(plot, table):
    ax = plot(table)
    assert ax.get_xlabel() in plots.AXIS_LABELS.values() and ax.get_ylabel()
    assert ax.get_xscale() == ('log' if 'sparsity' in ax.get_xlabel() else 'linear')
    assert ax.get_legend().get_title().get_text() == 'n = 3 seeds, without markers: untrained'


@each_plot
def test_one_seed_has_no_interval(plot):
    ax = plot(make_table(seeds=[4]))
    ax.figure.draw_without_rendering()
    assert ax.get_legend().get_title().get_text().startswith('n = 1 seed,')
    for collection in ax.collections:
        for path in collection.get_paths(): assert not len(path.vertices) or np.isnan(path.vertices).any()


@each_plot
def test_one_sparsity(plot):
    ax = plot(make_table(sparsities=[.01]))
    ax.figure.draw_without_rendering()
    assert len(ax.collections) >= 2  # the interval stays visible as a bar


@each_plot
def test_without_untrained(plot, table):
    ax = plot(table[table['trained']])
    assert 'untrained' not in ax.get_legend().get_title().get_text()
    assert not any('untrained' in line.get_label() for line in ax.get_lines())


@each_plot
def test_refuses(plot, table):
    with pytest.raises(ValueError, match='no rows of measure'): plot(table[table['measure'] == 'decision_share'])
    with pytest.raises(ValueError, match=r"has \['digits', 'mnist'\]; select one"):
        plot(pd.concat([table, table.assign(dataset='mnist')]))
    with pytest.raises(ValueError, match='no trained networks'): plot(table[~table['trained']])
    with pytest.raises(ValueError): plot(pd.concat([table, table]))
    with pytest.raises(ValueError): plot(table.assign(value=np.nan))


@each_plot
def test_style_of_the_caller_is_restored_after_an_error(plot, table):
    with matplotlib.rc_context({'font.size': 23}):
        with pytest.raises(ValueError): plot(table.iloc[:0])
        assert matplotlib.rcParams['font.size'] == 23


# the data drawn

@pytest.mark.parametrize('x', ['sparsity', 'q'])
def test_specialization_data(table, x):
    ax = figures.plot_specialization(table, x=x)
    spec = specialization(table)
    for measure in figures.MAIN_MEASURES:
        for trained, label in ((True, measure.replace('_', ' ')), (False, f'_{measure.replace("_", " ")}, untrained')):
            rows = spec[(spec['measure'] == measure) & (spec['trained'] == trained) & spec['subnetwork'].isna()]
            expected = rows.groupby(x)['specialization'].mean()  # sorted by x
            np.testing.assert_allclose(line(ax, label).get_xdata(), expected.index)
            np.testing.assert_allclose(line(ax, label).get_ydata(), expected)
            assert line(ax, label).get_color() == plots.appearance(measure)['color']
    assert len(ax.get_legend_handles_labels()[1]) == 3  # CKA is not in the main figure


def test_interval_data(table):
    ax = figures.plot_specialization(table, measures=['correlation'])
    spec = specialization(table)
    spec = spec[(spec['measure'] == 'correlation') & spec['trained'] & spec['subnetwork'].isna()]
    expected = summarize(spec, 'specialization', 'sparsity')
    bars = next(c for c in ax.collections if isinstance(c, matplotlib.collections.LineCollection))
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, expected[['low', 'high']])


@pytest.mark.parametrize('measure', MEASURES)
def test_raw_data(table, measure):
    ax = figures.plot_raw_measure(table, measure)
    for n, k in np.ndindex(2, 2):
        label = f'M({n}, {k}), {"own" if n == k else "other"}'
        for trained, name in ((True, label), (False, f'_{label}, untrained')):
            rows = table[(table['measure'] == measure) & (table['trained'] == trained)
                         & (table['subnetwork'] == n) & (table['subtask'] == k)]
            expected = rows.groupby('sparsity')['value'].mean()
            np.testing.assert_allclose(line(ax, name).get_ydata(), 1 - expected if measure == 'cka' else expected)
        assert line(ax, label).get_linestyle() == ('-' if n == k else ':')
        assert line(ax, label).get_color() == plots.COLORS[f'sub-network {n}']
    assert ('distance' in ax.get_ylabel()) == (measure == 'cka')


def test_role_data(table):
    ax = figures.plot_specialization_by_role(table, 'bottleneck')
    spec = specialization_by_role(specialization(table), table)
    for role in ROLES:
        for trained, label in ((True, role), (False, f'_{role}, untrained')):
            rows = spec[(spec['measure'] == 'bottleneck') & (spec['trained'] == trained) & (spec['role'] == role)]
            expected = rows.groupby('sparsity')['specialization'].mean()
            np.testing.assert_allclose(line(ax, label).get_ydata(), expected)
            assert line(ax, label).get_color() == plots.COLORS[role]
            if trained:  # one dot per network
                assert sorted(line(ax, f'_networks, {role}').get_ydata()) == sorted(rows['specialization'])


def test_role_needs_the_decision_share(table):
    less = table[(table['measure'] != 'decision_share') | (table['architecture'] == 'standard')]
    figures.plot_specialization_by_role(less, 'correlation')
    with pytest.raises(ValueError, match='no decision_share for .*architecture=bottleneck'):
        figures.plot_specialization_by_role(less, 'bottleneck')


def test_accuracy_data(table):
    ax = figures.plot_accuracy(table)
    for architecture in ('standard', 'bottleneck'):
        rows = table[(table['measure'] == 'accuracy') & (table['architecture'] == architecture) & table['trained']]
        np.testing.assert_allclose(line(ax, architecture).get_ydata(), rows.groupby('sparsity')['value'].mean())
    only = figures.plot_accuracy(table[table['architecture'] == 'standard'])
    assert only.get_legend_handles_labels()[1] == ['standard']


def test_order_of_rows_is_no_matter(table):
    first, second = (figures.plot_specialization(t) for t in (table, table.sample(frac=1, random_state=0)))
    for a, b in zip(first.get_lines(), second.get_lines()): np.testing.assert_allclose(a.get_xydata(), b.get_xydata())


def test_values_beyond_the_usual_range_stay_visible(table):
    table.loc[(table['measure'] == 'correlation') & (table['subnetwork'] != table['subtask']), 'value'] = -.05
    ax = figures.plot_specialization(table)
    assert max(line(ax, 'correlation').get_ydata()) > 1
    assert ax.get_ylim()[1] > max(line(ax, 'correlation').get_ydata())


# choices

def test_missing_and_unknown_metrics(table):
    less = table[table['measure'] != 'bottleneck']
    with pytest.raises(ValueError, match="no rows of measure 'bottleneck', the table has .*'weight_mask'"):
        figures.plot_specialization(less)
    ax = figures.plot_specialization(less, measures=['weight_mask', 'cka'])
    assert ax.get_legend_handles_labels()[1] == ['weight mask', 'CKA']
    for x in ('p', 'dataset'):
        with pytest.raises(ValueError, match=f"x must be a column of numbers, got '{x}'"):
            figures.plot_specialization(table, x=x)


def test_a_measure_that_nobody_registered(table):
    "is drawn as the results describe it, and in gray without a description"
    novel = table.replace({'measure': {'cka': 'novel'}})
    ax = figures.plot_specialization(novel, measures=['novel'])
    assert ax.get_legend_handles_labels()[1] == ['novel']
    look = dict(label='our own', raw='its raw values', color='#117733', marker='h', range=[0, 4], specialization=True)
    novel.attrs['measures'] = {'novel': look}
    drawn = line(figures.plot_specialization(novel, measures=['novel']), 'our own')
    assert (drawn.get_color(), drawn.get_marker()) == ('#117733', 'h')
    ax = figures.plot_raw_measure(novel, 'novel')
    assert ax.get_ylabel() == 'its raw values' and ax.get_ylim()[1] > 4


def test_any_column_as_horizontal_axis(table):
    "A sweep over a learning rate draws as one over sparsities does; several decades are drawn along their logarithm"
    over_lr = table.assign(lr=table['sparsity'] * 10, sparsity=.1, n_connections=1000, q=.4)
    for draw in (figures.plot_specialization, figures.plot_accuracy):
        ax, before = draw(over_lr, x='lr'), draw(table)
        assert ax.get_xlabel() == 'lr' and ax.get_xscale() == 'log'
        for a, b in zip(ax.get_lines()[:3], before.get_lines()[:3]):
            np.testing.assert_allclose(a.get_ydata(), b.get_ydata())
            np.testing.assert_allclose(a.get_xdata(), np.multiply(b.get_xdata(), 10))
    assert figures.plot_raw_measure(over_lr, 'cka', x='lr').get_xscale() == 'log'
    assert figures.plot_specialization_by_role(over_lr, 'correlation', x='lr').get_xscale() == 'log'
    near = over_lr.assign(lr=over_lr['lr'].rank(method='dense'))
    assert figures.plot_specialization(near, x='lr').get_xscale() == 'linear'
    with pytest.raises(ValueError, match='a seed occurs twice'): figures.plot_specialization(over_lr)


def test_undefined_values(table):
    table.loc[(table['measure'] == 'weight_mask') & (table['seed'] == 1) & (table['sparsity'] == 1), 'value'] = 0
    both = figures.figure_specialization, figures.figure_specialization_by_role
    for draw in (figures.plot_specialization, *both):
        with pytest.raises(ValueError, match='undefined .*seed=1.*measure=weight_mask'): draw(table)
        draw(table, undefined='omit')
    ax = figures.plot_specialization(table, undefined='omit')
    assert 'n = 2–3 seeds' in ax.get_legend().get_title().get_text()
    [legend] = figures.figure_specialization_by_role(table, undefined='omit').legends
    assert legend.get_title().get_text().split('\n')[1] == 'b: n = 2–3 seeds, without markers: untrained'


def test_style_keeps_what_others_set_meanwhile():
    interactive = plt.isinteractive()
    with plots.use_style(): matplotlib.interactive(not interactive)  # as starting an interactive backend does
    assert plt.isinteractive() is not interactive
    matplotlib.interactive(interactive)


def test_one_look_per_thing():
    described = {name: about for entry in entries('measure').values() for name, about in entry.about['values'].items()}
    shown = [*plots.COLORS, *(name for name in MEASURES if 'color' in described[name])]
    looks = [plots.appearance(name) for name in shown]
    for part in ('color', 'marker'): assert len({look[part] for look in looks}) == len(shown)


@each_plot
def test_axes_do_not_follow_the_data(plot, table):
    rising = table.assign(value=.5 + .1 * (table['subnetwork'] == table['subtask']).fillna(False) + .01 * table['seed'])
    less = rising[(table['sparsity'] == .01) & (table['seed'] < 2)]
    limits = [(ax.get_xlim(), ax.get_ylim()) for ax in (plot(rising), plot(less))]
    assert limits[0] == limits[1] and limits[0][1][1] == 1.03


def test_range_with():
    assert plots.range_with((0, 1), (.2, .9)) == (0, 1)
    assert plots.range_with((0, 1), (-.2, 1.5), margin=.1) == pytest.approx((-.3, 1.6))


# whole figures

@each_figure
def test_figures(figure, table):
    fig = figure(table)
    width = plots.COLUMN_WIDTH if figure is figures.figure_accuracy else plots.PAGE_WIDTH
    assert fig.get_size_inches()[0] == width
    assert len(fig.legends) + sum(ax.get_legend() is not None for ax in fig.axes) == 1
    for ax in fig.axes:
        box, inside = ax.get_tightbbox().transformed(fig.transFigure.inverted()), (-.001, 1.001)
        assert inside[0] <= box.x0 < box.x1 <= inside[1] and inside[0] <= box.y0 < box.y1 <= inside[1]


@each_figure
def test_figures_of_a_small_table(figure):
    figure(make_table(sparsities=[.01], seeds=[0]))


@pytest.mark.parametrize('measure', figures.MAIN_MEASURES)
def test_no_network_is_cut_off(table, measure):
    "Panels share an axis, which has to hold the dots of all of them"
    lone = table.assign(value=table['value'].where(table['measure'] == measure, .5))
    fig = figures.figure_specialization_by_role(lone)
    drawn = np.concatenate([line.get_ydata() for ax in fig.axes for line in ax.get_lines()])
    low, high = fig.axes[0].get_ylim()
    assert low < drawn.min() and drawn.max() < high and drawn.min() < -.15


def test_panels(table):
    assert [ax.get_xscale() for ax in figures.figure_specialization(table).axes] == ['log', 'linear']
    titles = [ax.get_title() for ax in figures.figure_raw_measures(table).axes]
    assert titles == ['bottleneck', 'weight mask', 'correlation', 'CKA']


@each_figure
def test_two_readings(figure, table):
    "A row of panels for each, the winner's first; a table without the setting is the winner's"
    both = pd.concat([table.assign(loss='mixture'), table.assign(loss='winner')], ignore_index=True)
    one, two = figure(table), figure(both)
    assert len(two.axes) == 2 * len(one.axes)
    shown = [text.get_text() for ax in two.axes for text in [*ax.texts, ax.title]]
    assert shown.index("winner's loss") < shown.index('loss of a mixture')
    assert "winner's loss" not in [text.get_text() for ax in one.axes for text in [*ax.texts, ax.title]]


def test_also_read(table, tmp_path):
    other = results_folder(tmp_path / 'mixture', table.assign(loss='mixture'))
    assert figures.also_read(table) is table
    both = figures.by_reading(figures.also_read(table, str(other)))
    assert [*both] == ['winner', 'mixture'] and len(both['mixture']) == len(table)
    with pytest.raises(ValueError, match='of the same reading: winner'):
        figures.also_read(table, results_folder(tmp_path / 'same', table))


# words

def asked(sparsities=(1e-4, .01, 1.), seeds=3, architecture='both', axes=None, **more):
    "What a manifest says was asked for"
    settings = dict(architecture=architecture, n_hidden=100)
    return dict(config=dict(settings=settings, axes=axes or dict(sparsity=[*sparsities]), seeds=seeds) | more)


MANIFEST = asked()


def test_caption(table):
    text = plots.caption(table, MANIFEST)
    for part in ('n = 3 seeds', '95 % intervals', 'digits', '3 sparsities from p = 0.0001 to 1', 'without markers',
                 'Failed: none of 18 networks.'):
        assert part in text
    assert 'without markers' not in plots.caption(table[table['trained']], MANIFEST)
    assert 'MNIST' in plots.caption(table.assign(dataset='mnist'), MANIFEST)
    of_run = asked([.0101], 1, first_seed=5)
    single = plots.caption(make_table(sparsities=[.0101], seeds=[5]), of_run)
    assert 'n = 1 seed,' in single and 'one sparsity, p = 0.01' in single and 'none of 2 networks' in single
    assert 'n = 2–3 seeds' in plots.caption(table[(table['seed'] < 2) | (table['measure'] == 'cka')], MANIFEST)
    with pytest.raises(ValueError, match='no trained networks'): plots.caption(table[~table['trained']], MANIFEST)


def failures(table, manifest): return plots.failures(table, manifest['config'])


@pytest.mark.provokes('divergence')
def test_failures_are_counted(table):
    "What was asked for and is not in the table: single networks, a whole sparsity; per architecture that is shown"
    lost = (table['seed'] == 1) & (table['sparsity'] == .01)
    assert failures(table[~lost], MANIFEST) == 'Failed: 2 of 18 networks (2 at p = 0.01).'
    assert failures(table[~lost | (table['architecture'] == 'standard')], MANIFEST) == (
        'Failed: 1 of 18 networks (1 at p = 0.01).')
    only = table[table['measure'] == 'correlation']  # of the standard architecture alone
    assert failures(only, MANIFEST) == 'Failed: none of 9 networks.'
    more = asked([1e-4, .01, .1, 1.], 4)
    assert failures(only, more) == (
        'Failed: 7 of 16 networks (1 at p = 0.0001, 1 at p = 0.01, 4 at p = 0.1, 1 at p = 1).')
    odd = make_table(sparsities=[.0002])  # what 0.00016 of 10,000 connections are
    assert failures(odd, asked([.00016])) == 'Failed: none of 6 networks.'
    untrained = table[~lost | ~table['trained']]  # a network that failed in training was measured before it
    assert 'Failed: 2 of 18' in failures(untrained, MANIFEST)
    standard = table[table['architecture'] == 'standard']
    assert failures(standard, asked(architecture='standard')) == 'Failed: none of 9 networks.'


def test_failures_of_another_axis(table):
    over_lr = table.assign(lr=table['sparsity'] * 10, sparsity=.1)
    manifest = asked(axes=dict(lr=[.001, .1, 10.]))
    assert failures(over_lr, manifest) == 'Failed: none of 18 networks.'
    left = over_lr[(over_lr['lr'] != .1) | (over_lr['seed'] != 1)]
    assert failures(left, manifest) == 'Failed: 2 of 18 networks (2 at lr = 0.1).'
    assert '3 values of lr from lr = 0.001 to 10' in plots.caption(over_lr, manifest, 'lr')


def test_mixed_results_are_named(table):
    codes = dict(training={'a': ['p1.0_seeds0-1']}, correlation={'a': ['p1.0_seeds0-0'], 'b': ['p1.0_seeds1-1']})
    text = plots.caption(table, MANIFEST | dict(codes=codes))
    assert 'Mixed' in text and 'correlation' in text and 'training' not in text.split('Mixed')[1]
    assert 'Mixed' not in plots.caption(table, MANIFEST)


# Table 1

def manifest_of(dataset='mnist', pixels=784, pairs=60_000, **changed):
    settings = dict(dataset=dataset) | asdict(Parameters(**changed))
    return dict(config=dict(settings=settings, seeds=10), data=dict(pixels=pixels, pairs=pairs))


def test_default_parameters_are_the_papers():
    table = table_one.parameter_table(manifest_of())
    assert {*table_one.TABLE_1, *table_one.TEXT} < set(table.index)
    assert table['source'].value_counts()['Table 1'] == len(table_one.TABLE_1)
    assert not table.map(lambda cell: 'paper' in cell).any(axis=None)


def test_other_parameters_are_marked():
    table = table_one.parameter_table(manifest_of('digits', 64, 16_000, readout_lr=.25, n_pairs=1000, batch_size=32))
    assert table.loc['number of input neurons', 'global training'] == '2*64 (paper: 2*784)'
    assert table.loc['learning rate', 'bottleneck re-training'] == '0.25 (paper: 0.5)'
    assert table.map(lambda cell: 'paper' in cell).sum().sum() == 4
    assert table.loc['pairs per epoch', 'mask training'] == '1000'
    assert table.loc['batch size', 'global training'] == '32'


def test_an_axis_is_shown_as_a_range():
    manifest = manifest_of()
    manifest['config']['axes'] = dict(batch_size=[16, 64, 256])
    assert table_one.parameter_table(manifest).loc['batch size', 'global training'] == '16–256'


def test_table_as_a_figure():
    frame = table_one.parameter_table(manifest_of('digits', 64, 16_000, epochs=1, bottleneck_epochs=2))
    fig = table_one.figure_table(frame, 'source')
    boxes = [text.get_window_extent() for text in fig.axes[0].texts if text.get_text()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert max(box.x1 for box in boxes) <= fig.bbox.width and fig.get_size_inches()[0] == plots.PAGE_WIDTH
    assert len(fig.axes[0].get_lines()) == 5  # above, below the names, between three parts, below


# files

def test_save(table, tmp_path):
    fig = figures.figure_accuracy(table)
    pdf, png = plots.save_figure(fig, tmp_path / 'new' / 'folder', 'accuracy')
    assert pdf.read_bytes().startswith(b'%PDF') and png.read_bytes().startswith(b'\x89PNG')
    assert sorted(p.name for p in pdf.parent.iterdir()) == ['accuracy.pdf', 'accuracy.png']
    assert plt.imread(png).shape[1] == round(plots.COLUMN_WIDTH * 300)
    assert b'CreationDate' not in pdf.read_bytes()
    with pytest.raises(ValueError, match='without folders'): plots.save_figure(fig, tmp_path, '../accuracy')


@each_figure
def test_same_bytes_again(figure, table, tmp_path):
    fig = figure(table)
    first = [path.read_bytes() for path in plots.save_figure(fig, tmp_path, 'a')]
    fig.canvas.draw()
    assert [path.read_bytes() for path in plots.save_figure(fig, tmp_path, 'a')] == first
    assert [path.read_bytes() for path in plots.save_figure(figure(table), tmp_path, 'b')] == first


@pytest.mark.provokes('full disk')
def test_failed_save_leaves_the_old_file(table, tmp_path, monkeypatch):
    fig = figures.figure_accuracy(table)
    paths = plots.save_figure(fig, tmp_path, 'a')
    before = [path.read_bytes() for path in paths]

    def half(file, **_):
        file.write(b'half')
        raise OSError('disk full')
    monkeypatch.setattr(fig, 'savefig', half)
    with pytest.raises(OSError, match='disk full'): plots.save_figure(fig, tmp_path, 'a')
    assert [path.read_bytes() for path in paths] == before and len(list(tmp_path.iterdir())) == 2


# imports and notebooks

def test_import_changes_nothing():
    code = ('import sys, matplotlib; matplotlib.use("Agg"); before = matplotlib.rcParams.copy(); '
            'import modspec.studies.extreme_sparsity.figures; assert matplotlib.rcParams == before; '
            'assert "torch" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(__file__).parent.parent)


RESULTS = Path(__file__).resolve().parent.parent / 'results' / 'paper'
FOLDER = RESULTS.parent.parent / 'nbs' / 'studies' / 'extreme_sparsity' / 'figures'
STORED = sorted(FOLDER.glob('*.ipynb'))
each_stored = pytest.mark.parametrize('path', STORED, ids=lambda path: path.stem)


def code_cells(path): return [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']


def stored(path, kind):
    "The outputs of one mime type in a committed notebook"
    found = [output.get('data', {}) for cell in code_cells(path) for output in cell['outputs']]
    return [''.join(data[kind]) for data in found if kind in data]


@each_stored
def test_figure_notebooks(path):
    "One cell of parameters, which leads to the committed results from where the notebook stands"
    [parameters] = [''.join(c['source']) for c in code_cells(path) if 'parameters' in c['metadata'].get('tags', [])]
    given = {}
    exec(parameters, given)
    assert given['out'] is None and (path.parent / given['results']).resolve() == RESULTS


@each_stored
def test_committed_executed(path):
    "With its picture, small enough to read in a browser"
    assert stored(path, 'image/png')
    assert path.stat().st_size < 500_000


@pytest.fixture(scope='session')
def paper():
    "The committed tables and what they were computed with; a checksum that does not agree is an error"
    if not RESULTS.is_dir(): pytest.skip('results/paper is not there')
    return read_table(RESULTS), read_manifest(RESULTS)


@pytest.mark.parametrize('name', ['accuracy', 'raw_metrics', 'specialization'])
def test_committed_pictures_show_results_paper(paper, name):
    "The stored caption and picture are those of the committed table, up to how letters are drawn elsewhere"
    table, manifest = paper
    measures = dict(accuracy=['accuracy'], raw_metrics=MEASURES, specialization=figures.MAIN_MEASURES)[name]
    draw = dict(accuracy=figures.figure_accuracy, raw_metrics=figures.figure_raw_measures,
                specialization=figures.figure_specialization)[name]
    [path] = [path for path in STORED if path.stem == name]
    said = '\n'.join(stored(path, 'text/markdown'))
    assert plots.caption(table[table['measure'].isin(measures)], manifest) in said
    again = BytesIO()
    both = figures.also_read(table, RESULTS.with_name('mixture'))  # as the page is stored
    draw(both).savefig(again, format='png', bbox_inches='tight')
    [drawn] = [cell for cell in code_cells(path) if f'{draw.__name__}(' in ''.join(cell['source'])]
    [kept] = [output['data']['image/png'] for output in drawn['outputs'] if 'image/png' in output.get('data', {})]
    before, now = (plt.imread(BytesIO(png)) for png in (b64decode(kept), again.getvalue()))
    assert np.abs(np.subtract(before.shape, now.shape)).max() <= 4
    height, width = np.minimum(before.shape, now.shape)[:2]
    assert np.abs(before[:height, :width, :3] - now[:height, :width, :3]).mean() < .02


def test_committed_parameters_are_those_of_results_paper(paper):
    [path] = [path for path in STORED if path.stem == 'parameters']
    shown = re.findall('<td>(.*?)</td>', stored(path, 'text/html')[0])
    assert shown == table_one.parameter_table(paper[1]).to_numpy().ravel().tolist()


def test_what_git_keeps_of_results():
    root = RESULTS.parent.parent
    if not (root / '.git').exists(): pytest.skip('no checkout of git')

    def ignored(name):
        answer = subprocess.run(['git', 'check-ignore', '-q', f'results/{name}'], cwd=root)
        return {0: True, 1: False}[answer.returncode]
    for name in ('networks.parquet', 'values.parquet', 'history.parquet', 'manifest.json'):
        assert not ignored(f'paper/{name}') and not ignored(f'sensitivity/{name}') and ignored(f'quick/{name}')
        assert ignored(f'paper/runs/p1.0_seeds0-4/{name}')
    for name in ('paper_fp32.csv', 'paper_fp32_claims.csv', 'faults.csv'): assert not ignored(name)
    for name in ('paper/sweep.log', 'paper/figures/accuracy.png', 'paper/logs', 'quick'): assert ignored(name)
