"""What the plots of modspec.figures draw, refuse and leave alone; how they look is in the chapter"""
import inspect
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from modspec import figures
from modspec.specialization import ROLES, specialization, specialization_by_role, summarize

ARCHITECTURES = {'bottleneck': ['bottleneck'], 'accuracy': ['bottleneck', 'standard'],
                 'decision_share': ['bottleneck', 'standard']}
METRICS = ('bottleneck', 'weight_mask', 'correlation', 'cka')
PLOTS = {
    'specialization': figures.plot_specialization,
    'specialization_q': lambda table, ax=None: figures.plot_specialization(table, ax, 'q'),
    'by_role': lambda table, ax=None: figures.plot_specialization_by_role(table, 'correlation', ax),
    'raw': lambda table, ax=None: figures.plot_raw_metric(table, 'weight_mask', ax),
    'cka': lambda table, ax=None: figures.plot_raw_metric(table, 'cka', ax),
    'accuracy': figures.plot_accuracy}
FIGURES = [figures.figure_specialization, figures.figure_raw_metrics, figures.figure_specialization_by_role,
           figures.figure_accuracy]
each_plot = pytest.mark.parametrize('plot', PLOTS.values(), ids=PLOTS)
each_figure = pytest.mark.parametrize('figure', FIGURES, ids=lambda f: f.__name__)


def make_table(sparsities=(1e-4, .01, 1.), seeds=(0, 1, 2)):
    rng = np.random.default_rng(0)
    rows = []
    for metric, p, seed, trained in product((*METRICS, 'accuracy', 'decision_share'), sparsities, seeds, (True, False)):
        for architecture in ARCHITECTURES.get(metric, ['standard']):
            network = dict(dataset='digits', architecture=architecture, sparsity=p, n_connections=round(p * 1e4),
                           q=(1 - p) / (1 + p) / 2, seed=seed, trained=trained, metric=metric)
            alone = {'accuracy': [(pd.NA, pd.NA)], 'decision_share': [(0, pd.NA), (1, pd.NA)]}
            pairs = alone.get(metric, np.ndindex(2, 2))
            rows += [network | dict(subnetwork=n, subtask=k, value=rng.uniform(.1, .9)) for n, k in pairs]
    return pd.DataFrame(rows).astype({'subnetwork': 'Int64', 'subtask': 'Int64'})


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
    with figures.use_style(): fig, (ax, untouched) = plt.subplots(1, 2, figsize=(7, 3))
    before = table.copy()
    assert plot(table, ax) is ax
    assert ax.get_lines() and not untouched.get_lines() and plt.get_fignums() == [fig.number]
    pd.testing.assert_frame_equal(table, before)
    fig.draw_without_rendering()


@each_plot
def test_makes_axes_of_column_width(plot, table):
    fig = plot(table).figure
    assert fig.get_size_inches()[0] == figures.COLUMN_WIDTH
    fig.draw_without_rendering()  # warns, thus fails, where the legend leaves no room


@each_plot
def test_labels_say_n_and_axis(plot, table):
    ax = plot(table)
    assert ax.get_xlabel() in figures.AXIS_LABELS.values() and ax.get_ylabel()
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
    with pytest.raises(ValueError, match='no rows of metric'): plot(table[table['metric'] == 'decision_share'])
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
    for metric in figures.MAIN_METRICS:
        for trained, label in ((True, metric.replace('_', ' ')), (False, f'_{metric.replace("_", " ")}, untrained')):
            rows = spec[(spec['metric'] == metric) & (spec['trained'] == trained) & spec['subnetwork'].isna()]
            expected = rows.groupby(x)['specialization'].mean()  # sorted by x
            np.testing.assert_allclose(line(ax, label).get_xdata(), expected.index)
            np.testing.assert_allclose(line(ax, label).get_ydata(), expected)
            assert line(ax, label).get_color() == figures.COLORS[metric]
    assert len(ax.get_legend_handles_labels()[1]) == 3  # CKA is not in the main figure


def test_interval_data(table):
    ax = figures.plot_specialization(table, metrics=['correlation'])
    spec = specialization(table)
    spec = spec[(spec['metric'] == 'correlation') & spec['trained'] & spec['subnetwork'].isna()]
    expected = summarize(spec, 'specialization', 'sparsity')
    bars = next(c for c in ax.collections if isinstance(c, matplotlib.collections.LineCollection))
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, expected[['low', 'high']])


@pytest.mark.parametrize('metric', METRICS)
def test_raw_data(table, metric):
    ax = figures.plot_raw_metric(table, metric)
    for n, k in np.ndindex(2, 2):
        label = f'M({n}, {k}), {"own" if n == k else "other"}'
        for trained, name in ((True, label), (False, f'_{label}, untrained')):
            rows = table[(table['metric'] == metric) & (table['trained'] == trained)
                         & (table['subnetwork'] == n) & (table['subtask'] == k)]
            expected = rows.groupby('sparsity')['value'].mean()
            np.testing.assert_allclose(line(ax, name).get_ydata(), 1 - expected if metric == 'cka' else expected)
        assert line(ax, label).get_linestyle() == ('-' if n == k else ':')
        assert line(ax, label).get_color() == figures.COLORS[f'sub-network {n}']
    assert ('distance' in ax.get_ylabel()) == (metric == 'cka')


def test_role_data(table):
    ax = figures.plot_specialization_by_role(table, 'bottleneck')
    spec = specialization_by_role(specialization(table), table)
    for role in ROLES:
        for trained, label in ((True, role), (False, f'_{role}, untrained')):
            rows = spec[(spec['metric'] == 'bottleneck') & (spec['trained'] == trained) & (spec['role'] == role)]
            expected = rows.groupby('sparsity')['specialization'].mean()
            np.testing.assert_allclose(line(ax, label).get_ydata(), expected)
            assert line(ax, label).get_color() == figures.COLORS[role]
            if trained:  # one dot per network
                assert sorted(line(ax, f'_networks, {role}').get_ydata()) == sorted(rows['specialization'])


def test_role_needs_the_decision_share(table):
    less = table[(table['metric'] != 'decision_share') | (table['architecture'] == 'standard')]
    figures.plot_specialization_by_role(less, 'correlation')
    with pytest.raises(ValueError, match='no decision_share for .*architecture=bottleneck'):
        figures.plot_specialization_by_role(less, 'bottleneck')


def test_accuracy_data(table):
    ax = figures.plot_accuracy(table)
    for architecture in ('standard', 'bottleneck'):
        rows = table[(table['metric'] == 'accuracy') & (table['architecture'] == architecture) & table['trained']]
        np.testing.assert_allclose(line(ax, architecture).get_ydata(), rows.groupby('sparsity')['value'].mean())
    only = figures.plot_accuracy(table[table['architecture'] == 'standard'])
    assert only.get_legend_handles_labels()[1] == ['standard']


def test_order_of_rows_is_no_matter(table):
    first, second = (figures.plot_specialization(t) for t in (table, table.sample(frac=1, random_state=0)))
    for a, b in zip(first.get_lines(), second.get_lines()): np.testing.assert_allclose(a.get_xydata(), b.get_xydata())


def test_values_beyond_the_usual_range_stay_visible(table):
    table.loc[(table['metric'] == 'correlation') & (table['subnetwork'] != table['subtask']), 'value'] = -.05
    ax = figures.plot_specialization(table)
    assert max(line(ax, 'correlation').get_ydata()) > 1
    assert ax.get_ylim()[1] > max(line(ax, 'correlation').get_ydata())


# choices

def test_missing_and_unknown_metrics(table):
    less = table[table['metric'] != 'bottleneck']
    with pytest.raises(ValueError, match="no rows of metric 'bottleneck', the table has .*'weight_mask'"):
        figures.plot_specialization(less)
    ax = figures.plot_specialization(less, metrics=['weight_mask', 'cka'])
    assert ax.get_legend_handles_labels()[1] == ['weight mask', 'CKA']
    with pytest.raises(ValueError, match="'new' has no color"):
        figures.plot_specialization(table.replace({'metric': {'cka': 'new'}}), metrics=['new'])
    with pytest.raises(ValueError, match="x must be one of .*got 'p'"): figures.plot_specialization(table, x='p')


def test_undefined_values(table):
    table.loc[(table['metric'] == 'weight_mask') & (table['seed'] == 1) & (table['sparsity'] == 1), 'value'] = 0
    both = figures.figure_specialization, figures.figure_specialization_by_role
    for draw in (figures.plot_specialization, *both):
        with pytest.raises(ValueError, match='undefined .*seed=1.*metric=weight_mask'): draw(table)
        draw(table, undefined='omit')
    ax = figures.plot_specialization(table, undefined='omit')
    assert 'n = 2–3 seeds' in ax.get_legend().get_title().get_text()
    [legend] = figures.figure_specialization_by_role(table, undefined='omit').legends
    assert legend.get_title().get_text().split('\n')[1] == 'b: n = 2–3 seeds, without markers: untrained'


def test_style_keeps_what_others_set_meanwhile():
    interactive = plt.isinteractive()
    with figures.use_style(): matplotlib.interactive(not interactive)  # as starting an interactive backend does
    assert plt.isinteractive() is not interactive
    matplotlib.interactive(interactive)


def test_one_look_per_thing():
    assert figures.COLORS.keys() == figures.MARKERS.keys()
    for looks in (figures.COLORS, figures.MARKERS): assert len(set(looks.values())) == len(looks)


# whole figures

@each_figure
def test_figures(figure, table):
    fig = figure(table)
    width = figures.COLUMN_WIDTH if figure is figures.figure_accuracy else figures.PAGE_WIDTH
    assert fig.get_size_inches()[0] == width
    assert len(fig.legends) + sum(ax.get_legend() is not None for ax in fig.axes) == 1
    for ax in fig.axes:
        box, inside = ax.get_tightbbox().transformed(fig.transFigure.inverted()), (-.001, 1.001)
        assert inside[0] <= box.x0 < box.x1 <= inside[1] and inside[0] <= box.y0 < box.y1 <= inside[1]


@each_figure
def test_figures_of_a_small_table(figure):
    figure(make_table(sparsities=[.01], seeds=[0]))


def test_panels(table):
    assert [ax.get_xscale() for ax in figures.figure_specialization(table).axes] == ['log', 'linear']
    titles = [ax.get_title() for ax in figures.figure_raw_metrics(table).axes]
    assert titles == ['bottleneck', 'weight mask', 'correlation', 'CKA']


# words

def test_caption(table):
    text = figures.caption(table)
    for part in ('n = 3 seeds', '95 % bootstrap', '8×8 digits', '3 sparsities from p = 0.0001 to 1', 'without markers'):
        assert part in text
    assert 'without markers' not in figures.caption(table[table['trained']])
    assert 'MNIST' in figures.caption(table.assign(dataset='mnist'))
    single = figures.caption(make_table(sparsities=[.01], seeds=[0]))
    assert 'n = 1 seed,' in single and 'one sparsity, p = 0.01' in single
    assert 'n = 2–3 seeds' in figures.caption(table[(table['seed'] < 2) | (table['metric'] == 'cka')])
    with pytest.raises(ValueError, match='no trained networks'): figures.caption(table[~table['trained']])


# files

def test_save(table, tmp_path):
    fig = figures.figure_accuracy(table)
    pdf, png = figures.save_figure(fig, tmp_path / 'new' / 'folder', 'accuracy')
    assert pdf.read_bytes().startswith(b'%PDF') and png.read_bytes().startswith(b'\x89PNG')
    assert sorted(p.name for p in pdf.parent.iterdir()) == ['accuracy.pdf', 'accuracy.png']
    assert plt.imread(png).shape[1] == round(figures.COLUMN_WIDTH * 300)
    assert b'CreationDate' not in pdf.read_bytes()
    with pytest.raises(ValueError, match='without folders'): figures.save_figure(fig, tmp_path, '../accuracy')


@each_figure
def test_same_bytes_again(figure, table, tmp_path):
    fig = figure(table)
    first = [path.read_bytes() for path in figures.save_figure(fig, tmp_path, 'a')]
    fig.canvas.draw()
    assert [path.read_bytes() for path in figures.save_figure(fig, tmp_path, 'a')] == first
    assert [path.read_bytes() for path in figures.save_figure(figure(table), tmp_path, 'b')] == first


def test_failed_save_leaves_the_old_file(table, tmp_path, monkeypatch):
    fig = figures.figure_accuracy(table)
    paths = figures.save_figure(fig, tmp_path, 'a')
    before = [path.read_bytes() for path in paths]

    def half(file, **_):
        file.write(b'half')
        raise OSError('disk full')
    monkeypatch.setattr(fig, 'savefig', half)
    with pytest.raises(OSError, match='disk full'): figures.save_figure(fig, tmp_path, 'a')
    assert [path.read_bytes() for path in paths] == before and len(list(tmp_path.iterdir())) == 2


# imports and notebooks

def test_import_changes_nothing():
    code = ('import sys, matplotlib; matplotlib.use("Agg"); before = matplotlib.rcParams.copy(); '
            'import modspec.figures; assert matplotlib.rcParams == before; assert "torch" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(__file__).parent.parent)


def test_no_plot_saves_or_shows():
    for name, function in inspect.getmembers(figures, inspect.isfunction):
        source = inspect.getsource(function)
        assert 'show(' not in source and ('savefig(' not in source or name == 'save_figure')


@pytest.mark.parametrize('name', ['specialization', 'raw_metrics', 'accuracy'])
def test_figure_notebooks(name):
    folder = Path(__file__).parent.parent / 'nbs' / 'figures'
    cells = [c for c in json.loads((folder / f'{name}.ipynb').read_text())['cells'] if c['cell_type'] == 'code']
    tagged = [''.join(c['source']) for c in cells if 'parameters' in c['metadata'].get('tags', [])]
    assert tagged == ["results = '../../results/quick'\nout = None"]
    assert ''.join(cells[-1]['source']).startswith(f'fig = figure_{name}(table)')
