"""Causes at one density or norm: lines along strengths, the rule for a common size, and tables with gaps"""
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from modspec.analysis.evidence import Undecidable, estimate
from modspec.analysis.tables import read_table
from modspec.studies.causes.effects import MODULAR, caused_networks
from modspec.studies.causes.matched import (
    cause_families,
    common_size,
    figure_matched,
    first_crossing,
    matched_effects,
    matched_values,
)

GRIDS = dict(l1=(.6, .3, .1), l2=(.8, .5), cost=(.4, .2), dropout=(1., .97))


def lines(of_measure, n=5, x='density', grids=GRIDS, accuracy=None):
    "Networks whose measures follow from the size by a function for each cause; seeds differ a little in their size"
    rows = []
    for seed in range(n):
        sizes = {'baseline': 1.} | {f'{cause}_{k}': size for cause, grid in grids.items()
                                    for k, size in enumerate(grid, 1)}
        for name, size in sizes.items():
            size = size + .005 * seed * (name != 'baseline') * (name[:4] != 'drop')
            about = dict(variation=name, seed=seed, accuracy=(accuracy or {}).get(name, 1.), density=1., weight_norm=1.)
            rows.append(about | {x: size} | {m: of_measure(name.split('_')[0], size) for m in MODULAR})
    return pd.DataFrame(rows).set_index(['variation', 'seed'])


PREFIXES = {name: name for name in GRIDS}


def by_size(cause, size): return 1 - size + .5 * (cause == 'cost') * (size < 1)


# lines

def test_a_line_is_followed_in_its_order():
    "to the first place where it is at x, from either side; not at all if it does not come there"
    assert first_crossing([1, .5, .8], [0, 1, 2], .75) == .5
    assert first_crossing([.5, 1, .5], [0, 1, 10], .75) == .5
    assert first_crossing([1, .5], [3, 4], 1) == 3 and first_crossing([1, .5], [3, 4], .5) == 4
    assert first_crossing([1, 1, .5], [3, 4, 5], 1) == 3
    assert np.isnan(first_crossing([1, .5], [3, 4], .4)) and np.isnan(first_crossing([], [], .4))


def test_what_is_linear_in_density_is_found_at_any():
    networks = lines(lambda cause, size: 1 - size)
    families = cause_families(networks, PREFIXES)
    for cause, at in (('l1', .45), ('l1', .2), ('l2', .9), ('cost', .7)):
        found = matched_values(networks, families[cause], 'si', 'density', at)
        assert found.tolist() == pytest.approx([1 - at] * 5) and found.index.tolist() == [*range(5)]
    assert matched_values(networks, families['l1'], 'si', 'density', .05).isna().all()


def test_norms_are_met_by_logarithms():
    networks = lines(lambda cause, size: np.log(size), x='weight_norm', grids=dict(l1=(.5, .2), cost=(2., 5.)))
    families = cause_families(networks, PREFIXES)
    for cause, at in (('l1', .7), ('cost', 3.)):
        assert matched_values(networks, families[cause], 'fi', 'weight_norm', at).tolist() == \
            pytest.approx([np.log(at)] * 5)


def test_seeds_stay_with_their_line():
    "whatever the order of rows"
    networks = lines(lambda cause, size: 1 - size)
    networks['si'] += networks.index.get_level_values('seed')
    shuffled = networks.sample(frac=1, random_state=0)
    found = matched_values(shuffled, ['l1_1', 'l1_2', 'l1_3'], 'si', 'density', .5)
    assert found.sort_index().tolist() == pytest.approx([.5 + seed for seed in range(5)])


# families and the common size

def test_families_are_ordered_and_know_their_task():
    grids = dict(l1=tuple(np.linspace(.9, .1, 11)), cost=(.5,))
    networks = lines(by_size, grids=grids, accuracy={'l1_2': .9, 'cost_1': .5})
    families = cause_families(networks, dict(L1='l1', cost='cost', lacking='goals'))
    assert families == {'L1': ['l1_1', *(f'l1_{k}' for k in range(3, 12))]}


def test_the_common_size_is_the_farthest_that_most_reach():
    networks = lines(by_size)
    families = cause_families(networks, PREFIXES)
    assert .5 <= common_size(networks, families) <= .52  # l1, l2 and cost of four, to the end of l2
    two = {cause: families[cause] for cause in ('l1', 'cost')}
    assert .2 <= common_size(networks, two) <= .22
    assert .97 <= common_size(networks, {cause: families[cause] for cause in ('l1', 'dropout')}) < 1


def test_norms_that_go_apart_have_the_larger_party_or_nothing():
    grids = dict(l1=(.5, .2), l2=(2.,), cost=(3., 5.))
    networks = lines(by_size, x='weight_norm', grids=grids)
    families = cause_families(networks, PREFIXES)
    assert 2 <= common_size(networks, families, 'weight_norm') <= 2.02
    networks.loc['baseline', 'weight_norm'] = [.9, 1., 1.1, 1.2, 1.3]
    for name in ('l1_1', 'l1_2'): networks.loc[name, 'weight_norm'] = [.1] * 5
    for name in ('cost_1', 'cost_2'): networks.loc[name, 'weight_norm'] = [9.] * 5
    apart = {cause: families[cause] for cause in ('l1', 'cost')}
    with pytest.raises(Undecidable, match='more than half'): common_size(networks, apart, 'weight_norm')


# tables and figures

def test_a_cause_that_does_more_is_above_and_one_that_is_not_there_has_no_number():
    networks = lines(by_size)
    families = cause_families(networks, PREFIXES)
    found = matched_effects(networks, families, .6, columns=[*MODULAR]).set_index(['cause', 'column'])
    assert found.loc['l1', 'mean'].tolist() == pytest.approx([.4] * 4)
    assert (found.loc['cost', 'low'] > found.loc['l1', 'high'] + .2).all()
    assert found.loc['dropout', ['mean', 'low', 'high']].isna().all(axis=None) and (found['reached'] % 1 == 0).all()


def test_too_few_lines_make_no_value():
    "of five networks four may do, three may not"
    networks = lines(by_size)
    for short, there in ((1, True), (2, False)):
        for seed in range(short): networks.loc[('l2_2', seed), 'density'] = .85
        for seed in range(short): networks.loc[('l2_1', seed), 'density'] = .9
        found = matched_effects(networks, {'l2': ['l2_1', 'l2_2']}, .6, columns=['si']).iloc[0]
        assert found['reached'] == pytest.approx(1 - short / 5) and np.isfinite(found['mean']) == there


def test_a_figure_marks_the_point_of_comparison():
    networks = lines(by_size)
    families = cause_families(networks, PREFIXES)
    fig = figure_matched(networks, families, .6)
    for ax, column in zip(fig.axes, MODULAR):
        marks = [line for line in ax.get_lines() if line.get_marker() == 'D']
        found = matched_effects(networks, families, .6, columns=[column])
        np.testing.assert_allclose([mark.get_ydata()[0] for mark in marks], found['mean'])
        assert all(mark.get_xdata()[0] == .6 for mark in marks)
    plt.close(fig)


def test_a_point_of_the_committed_grid_is_met_exactly():
    "where every network is asked for at its own density, the matched value is the measured one"
    networks = caused_networks(read_table(ROOT / 'results' / 'causes_retina'))
    points = cause_families(networks)['cost']
    measured = networks.loc[points[0]]
    met = [matched_values(networks.loc[pd.IndexSlice[:, [seed]], :], points, 'si', 'density', density)[seed]
           for seed, density in measured['density'].items()]
    np.testing.assert_allclose(met, measured['si'])
    assert estimate(met).low > 0
