"""Effects of open choices against plain sums over seeds, tables that are refused, the figure, and its configuration"""
import itertools
import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from invented import network, rows, specialized, table_of
from scipy.stats import t
from sweeps import swept, write_config

from modspec.analysis.plot import PAGE_WIDTH
from modspec.analysis.tables import read_table
from modspec.studies.extreme_sparsity.figures import MAIN_MEASURES
from modspec.studies.extreme_sparsity.open_choices import (
    COMPARED,
    clear_effects,
    effects,
    lowest_accuracy,
    pattern,
    still_true,
    variation_values,
)
from modspec.studies.extreme_sparsity.sensitivity import SHADES, figure_points, figure_sensitivity
from modspec.training.parameters import make_parameters

CONFIG = yaml.safe_load((ROOT / 'config' / 'extreme_sparsity' / 'sensitivity.yaml').read_text())
SPARSITIES = 1e-4, 0.01, 1.
HALF = t.ppf(.975, 2) * np.std([.1, .11, .12], ddof=1) / 3**.5  # of an interval of `zeta`


def network_rows(variation, p, seed, spec, accuracy, trained=True):
    "One network of each architecture whose specialization is `spec` by every measure, for both sub-networks"
    of = {name: network(p, seed, trained, name, variation=variation) for name in ('standard', 'bottleneck')}
    found = rows(of['standard'], 'accuracy', accuracy) + rows(of['bottleneck'], 'accuracy', accuracy - .1)
    for measure in MAIN_MEASURES:
        where = 'bottleneck' if measure == 'bottleneck' else 'standard'
        found += rows(of[where], measure, specialized(spec, .4))
    return found


def made_up(spec, n_seeds=3, accuracy=.9):
    "Table of variations from `spec(variation, p, seed)`"
    found = []
    for variation, p, seed in itertools.product(('baseline', 'zeta', 'alpha'), SPARSITIES, range(n_seeds)):
        found += network_rows(variation, p, seed, spec(variation, p, seed), accuracy)
        found += network_rows(variation, p, seed, .1, .1, trained=False)
    return table_of(found)


def shifted(variation, p, seed):
    "Seeds that differ much, `zeta` higher by 0.1 and a little more per seed, `alpha` falling where the others rise"
    level = .2 - .05 * np.log10(p) + .1 * seed
    return dict(baseline=level, zeta=level + .1 + .01 * seed, alpha=.3 + .05 * np.log10(p) + .1 * seed)[variation]


TABLE = made_up(shifted)


# effects

def test_effects_are_paired_by_seed():
    "Seeds that differ by far more than the effect do not blur it"
    found = effects(TABLE).query("variation == 'zeta' and measure in @MAIN_MEASURES")
    assert len(found) == 9 and np.allclose(found['mean'], .11) and (found['n'] == 3).all()
    assert np.allclose(found['low'], .11 - HALF) and np.allclose(found['high'], .11 + HALF) and found['clear'].all()
    assert np.allclose(found['baseline'], [.3 - .05 * np.log10(p) for p in found['sparsity']])


def test_order_is_the_configurations():
    assert [*effects(TABLE)['variation'].unique()] == ['zeta', 'alpha', 'chance_corrected']
    assert [*clear_effects(effects(TABLE)).index] == ['zeta', 'alpha', 'chance_corrected']
    assert [*still_true(TABLE).index] == ['baseline', 'zeta', 'alpha', 'chance_corrected']


def test_what_does_not_change_has_no_effect():
    found = effects(TABLE).query("measure == 'accuracy, standard'")
    assert (found[['mean', 'low', 'high']] == 0).all(axis=None) and not found['clear'].any()


def test_only_common_seeds_count():
    "A variation that lacks a seed is compared on the others; the level of the baseline is theirs"
    table = TABLE[(TABLE['variation'] != 'zeta') | (TABLE['seed'] > 0)]
    found = effects(table).query("variation == 'zeta' and measure == 'correlation'")
    assert (found['n'] == 2).all() and np.allclose(found['mean'], .115)
    assert np.allclose(found['baseline'], [.35 - .05 * np.log10(p) for p in found['sparsity']])
    disjoint = table[(table['variation'] == 'zeta') != (table['seed'] == 0)]
    with pytest.raises(ValueError, match=r"variations \['zeta'\] share no seed and sparsity with the baseline"):
        effects(disjoint)


def test_one_seed_is_never_clear():
    found = effects(TABLE[TABLE['seed'] == 1])
    assert (found['n'] == 1).all() and found['low'].isna().all() and not found['clear'].any()
    assert (clear_effects(found) == '').all(axis=None)
    assert set(pattern(TABLE[TABLE['seed'] == 1])['holds']) == {'unclear'}


def test_chance_correction_is_of_the_baseline():
    "0.1 before training: (M - base) / (1 - base) of both digits, by hand; only where it makes sense"
    values = variation_values(TABLE).query("variation == 'chance_corrected'")
    assert set(values['measure']) == {'bottleneck'} and len(values) == 9
    for p, seed, value in values[['sparsity', 'seed', 'value']].itertuples(index=False):
        spec = shifted('baseline', p, seed)
        own, other = (max(0, (.4 * (1 + s) - .4 * (1 + b)) / (1 - .4 * (1 + b))) for s, b in ((spec, .1), (-spec, -.1)))
        assert value == pytest.approx((own - other) / (own + other))


def test_undefined_specialization_is_left_out():
    "of a single network, by one measure"
    silent = TABLE.copy()
    where = silent.eval("variation == 'zeta' and measure == 'correlation' and seed == 0 and sparsity == 1 and trained")
    silent.loc[where, 'value'] = 0.
    found = effects(silent).query("variation == 'zeta' and sparsity == 1").set_index('measure')
    assert found['n'].to_dict() == dict.fromkeys(COMPARED, 3) | {'correlation': 2}


@pytest.mark.parametrize(('table', 'message'), [
    (TABLE.drop(columns='variation'), 'no column variation'),
    (TABLE.query("variation != 'baseline'"), 'no rows where variation is baseline'),
    (TABLE.query('trained'), 'no rows where trained is False'),
    (pd.concat([TABLE, TABLE.assign(dataset='mnist')]), r"one dataset, got \['digits', 'mnist'\]")])
def test_tables_that_are_refused(table, message):
    for use in (effects, pattern, figure_sensitivity):
        with pytest.raises(ValueError, match=message): use(table)


# the paper's statement

def test_pattern():
    "From the sparsest to the densest, p in between does not count"
    found = pattern(TABLE).set_index(['variation', 'measure'])
    for measure in MAIN_MEASURES:
        assert found.loc[('baseline', measure), 'holds'] == found.loc[('zeta', measure), 'holds'] == 'yes'
        assert found.loc[('baseline', measure), 'mean'] == pytest.approx(.2)
        assert found.loc[('alpha', measure), 'holds'] == 'no'
    flat = made_up(lambda variation, p, seed: .3 + .1 * (-1) ** seed * (p == 1), n_seeds=4)
    assert set(pattern(flat).query("variation != 'chance_corrected'")['holds']) == {'unclear'}
    one = TABLE.query('sparsity == 1')
    with pytest.raises(ValueError, match='need two sparsities to compare, got only 1'): pattern(one)


def test_accuracy_of_the_architecture_that_does_worse():
    assert np.allclose(lowest_accuracy(TABLE), .8) and lowest_accuracy(TABLE).shape == (3, 3)
    answers = still_true(TABLE, levels=(.79, .81))
    assert answers['all ≥ 0.79'].tolist() == ['yes', 'yes', 'yes', ''] and answers['accuracy, p = 1'].iloc[1] == '0.80'
    assert answers['all ≥ 0.81'].tolist() == ['no', 'no', 'no', '']


# the figure

def test_figure_shows_levels_and_intervals():
    points, fig = figure_points(TABLE), figure_sensitivity(TABLE)
    assert fig.get_figwidth() == PAGE_WIDTH and len(fig.axes) == len(COMPARED)
    for ax, measure in zip(fig.axes, COMPARED):
        drawn = [c for c in ax.collections if c.get_label().startswith('p = ')]
        assert [c.get_label() for c in drawn] == ['p = 0.0001', 'p = 0.01', 'p = 1']
        for p, one in zip(SPARSITIES, drawn):
            expected = points[(points['measure'] == measure) & (points['sparsity'] == p)]
            assert np.allclose(one.get_offsets()[:, 0], expected['x'])
            assert [*(one.get_facecolors()[:, :3] < 1).any(axis=1)] == [*expected['clear']]
    base = points.query("variation == 'baseline' and measure == 'correlation'").set_index('sparsity')
    zeta = points.query("variation == 'zeta' and measure == 'correlation'").set_index('sparsity')
    assert np.allclose(zeta['x'] - base['x'], .11) and np.allclose(zeta['low'] - base['x'], .11 - HALF)
    assert fig.axes[0].get_yticklabels()[-1].get_text() == 'chance corrected'


def test_figure_of_too_many_sparsities():
    table = pd.concat([TABLE, TABLE.query('sparsity == 1').assign(sparsity=.5)])
    with pytest.raises(ValueError, match=f'there are shades for {len(SHADES)} sparsities'): figure_sensitivity(table)


# the configuration

@pytest.mark.parametrize('name', CONFIG['variations'])
def test_variation_is_legal_and_changes_something(name):
    "and every parameter it names differs from the default, but for those that it fixes on purpose"
    base = {key: value for key, value in CONFIG['settings'].items() if key not in ('dataset', 'architecture')}
    changed, unchanged = (asdict(make_parameters(base | change)) for change in (CONFIG['variations'][name], {}))
    assert changed != unchanged
    assert {key for key in changed if changed[key] == unchanged[key]} & CONFIG['variations'][name].keys() <= {'rho'}


def test_chapter_names_every_variation():
    path = ROOT / 'nbs' / 'studies' / 'extreme_sparsity' / 'sensitivity.ipynb'
    text = ''.join(''.join(cell['source']) for cell in json.loads(path.read_text(encoding='utf-8'))['cells'])
    for name in CONFIG['variations']: assert f'`{name}`' in text, name


def test_real_networks(tmp_path):
    "Tiny ones: what a mask keeps leaves accuracy as it is, and everything can be computed and drawn"
    settings = dict(architecture='both', bottleneck_epochs=1, readout_epochs=1)
    config = write_config(tmp_path / 'sweep.yaml', settings=settings, seeds=2,
                          variations=dict(mask_q_20=dict(mask_fraction=.2), no_walk=dict(walk=0)))
    table = read_table(swept(config, tmp_path / 'results'))
    found = effects(table).query("variation == 'mask_q_20'").set_index('measure')
    assert (found.loc[[m for m in COMPARED if m != 'weight_mask'], 'mean'] == 0).all()
    assert (found.loc['weight_mask', 'mean'] != 0).any()
    assert not pattern(table).empty and len(figure_sensitivity(table).axes) == len(COMPARED)


def test_committed_results():
    "The pattern that the chapter reports: specialization falls in every variation, by every measure, or is unclear"
    folder = ROOT / 'results' / 'sensitivity'
    if not folder.is_dir(): pytest.skip('results/sensitivity is not there')
    table = read_table(folder)
    assert {'baseline', *CONFIG['variations']} <= set(table['variation'])
    holds = pattern(table)['holds'].value_counts()
    assert 'no' not in holds and holds['yes'] > 10 * holds.get('unclear', 0)
