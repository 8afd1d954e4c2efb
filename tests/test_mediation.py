"""From a regulariser by modularity to the gap: made-up tables whose truth is known, and the rules of the claim"""
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from invented import network, rows, table_of

from modspec.analysis.evidence import Undecidable
from modspec.studies.causes.mediation import (
    MOST_LOST,
    check_learned,
    figure_mediation,
    interventions,
    mediated,
    mediation_finding,
    mediation_networks,
    mediations,
    path_numbers,
)

A, B, DIRECT, RAISED = .2, -.3, -.01, .15


def made_up(mediates=True, n_seeds=12, seed=0, a=A, b=B, direct=DIRECT, noise=1.):
    "A regulariser, and two points that raise `q` without it, a little and much"
    rng, found = np.random.default_rng(seed), []
    for s in range(n_seeds):
        q_seed, gap_seed = rng.normal(0, [.1, .02])
        for name, x, force in (('baseline', 0, 0), ('l1', 1, 0), ('forced_1', 0, RAISED), ('forced_2', 0, 2 * RAISED)):
            luck = noise * rng.normal(0, [.04, .004])
            common = 0 if mediates else luck[0] + a * x  # what moves both where modularity does nothing
            q = q_seed + a * x + luck[0] + force + noise * rng.normal(0, .004)
            gap = gap_seed + luck[1] + (b * (q - q_seed) + direct * x if mediates else b * common)
            found.append(dict(variation=name, seed=s, q=q, gap=gap + .15, accuracy=.8))
    return pd.DataFrame(found).set_index(['variation', 'seed'])


def contains(e, truth): return e.low <= truth <= e.high


# the path

def test_numbers_are_those_of_a_regression():
    rng = np.random.default_rng(0)
    m, y = rng.normal(size=(2, 7, 9))
    found = path_numbers(m, y)
    for k in range(7):
        slope, intercept = np.polyfit(m[k], y[k], 1)
        one = {name: values[k] for name, values in found.items()}
        assert one['b'] == pytest.approx(slope) and one['direct'] == pytest.approx(intercept)
        assert one['a'] == pytest.approx(m[k].mean()) and one['total'] == pytest.approx(y[k].mean())
        assert one['ab'] + one['direct'] == pytest.approx(one['total'])


def test_a_regression_over_all_networks_says_the_same():
    "The gap by the cause and the mediator, with a level for every seed"
    networks = made_up().loc[['baseline', 'l1']].reset_index()
    columns = [networks['variation'] == 'l1', networks['q'], *pd.get_dummies(networks['seed']).to_numpy().T]
    direct, b, *_ = np.linalg.lstsq(np.column_stack(columns).astype(float), networks['gap'], rcond=None)[0]
    found = mediated(made_up(), 'l1', 'q')
    assert found.b.mean == pytest.approx(b) and found.direct.mean == pytest.approx(direct)


def test_truth_without_noise():
    found = mediated(made_up(noise=1e-3), 'l1', 'q')
    assert found.a.mean == pytest.approx(A, abs=1e-3) and found.total.mean == pytest.approx(A * B + DIRECT, abs=1e-3)


def test_truth_is_recovered():
    found = mediated(made_up(n_seeds=400), 'l1', 'q')
    truth = dict(a=A, b=B, ab=A * B, direct=DIRECT, total=A * B + DIRECT)
    for name, value in truth.items(): assert getattr(found, name).mean == pytest.approx(value, abs=.02), name


def test_intervals_contain_the_truth():
    "Of 200 tables with twelve seeds, nearly as often as they say"
    found = [mediated(made_up(seed=k), 'l1', 'q', n_draws=500) for k in range(200)]
    for name, value in dict(a=A, b=B, ab=A * B, direct=DIRECT, total=A * B + DIRECT).items():
        share = np.mean([contains(getattr(one, name), value) for one in found])
        assert .84 < share <= 1, (name, share)


def test_no_path_is_found_where_there_is_none():
    "The interval excludes 0 seldom"
    found = [mediated(made_up(seed=k, b=0), 'l1', 'q', n_draws=500).ab for k in range(200)]
    assert np.mean([not contains(one, 0) for one in found]) < .16


def test_whole_seeds_are_drawn():
    "Levels of seeds, however different, change nothing; the same draws give the same numbers, others nearly"
    networks = made_up()
    levels = networks.index.get_level_values('seed').to_numpy() * 10.
    moved = networks.assign(q=networks['q'] + levels, gap=networks['gap'] - levels)
    for name, one in vars(mediated(networks, 'l1', 'q')).items():
        other = getattr(mediated(moved, 'l1', 'q'), name)
        assert [other.mean, other.low, other.high] == pytest.approx([one.mean, one.low, one.high], abs=1e-6)
    same, again = (mediated(networks, 'l1', 'q', seed=k).ab for k in (0, 1))
    assert same == mediated(networks, 'l1', 'q').ab != again and abs(same.low - again.low) < .01


def test_seeds_that_lack_one_of_the_two_are_left_out():
    networks = made_up()
    lacking = networks.drop([('l1', 0), ('baseline', 1)])
    assert mediated(lacking, 'l1', 'q') == mediated(networks[networks.index.get_level_values('seed') > 1], 'l1', 'q')


def test_what_cannot_be_told():
    networks = made_up(n_seeds=3)
    with pytest.raises(Undecidable, match='needs four seeds or more, got 3'): mediated(networks, 'l1', 'q')
    fixed = made_up().assign(q=lambda t: (t.index.get_level_values('variation') == 'l1') * .2)
    with pytest.raises(Undecidable, match='q changes alike in every seed'): mediated(fixed, 'l1', 'q')


def test_table_of_paths():
    networks = made_up().assign(other=lambda t: -t['q'])
    found = mediations(networks, ['l1', 'forced_1'], ['q', 'other'])
    assert found.index.names == ['cause', 'mediator', 'coefficient'] and len(found) == 2 * 2 * 5
    one = mediated(networks, 'l1', 'q')
    for name, e in vars(one).items(): assert [*found.loc[('l1', 'q', name)]] == [e.mean, e.low, e.high]
    turned = found.loc['l1'].xs('ab', level='coefficient')  # the sign of a mediator does not matter
    assert turned.loc['q'].tolist() == pytest.approx(turned.loc['other'].tolist())


# the intervention

def test_intervention():
    found = interventions(made_up(n_seeds=100), ['forced_1', 'forced_2'], ['q', 'gap'])
    for k, point in enumerate(['forced_1', 'forced_2'], 1):
        assert found.loc[(point, 'q'), 'mean'] == pytest.approx(k * RAISED, abs=.02)
        assert found.loc[(point, 'gap'), 'mean'] == pytest.approx(k * RAISED * B, abs=.005)


def test_a_common_cause_fools_the_path_and_not_the_intervention():
    networks = made_up(mediates=False)
    path = mediated(networks, 'l1', 'q')
    assert path.ab.high < 0 and path.a.low > 0 and path.total.high < 0
    assert contains(path.direct, 0)  # as if all of it went by modularity
    forced = interventions(networks, ['forced_2'], ['q', 'gap'])
    assert forced.loc[('forced_2', 'q'), 'low'] > 0
    assert abs(forced.loc[('forced_2', 'gap'), 'mean']) < .1 * abs(2 * RAISED * B)


# the rules

BOTH = ['forced_1', 'forced_2']


def finding(networks, points=BOTH): return mediation_finding(networks, 'l1', 'q', points)


def test_supported_by_all_three():
    found = finding(made_up())
    assert found.verdict == 'holds' and 'no' not in found.why.replace('none', '').split()
    assert 'ab -0.0' in found.numbers and 'forced_2' in found.numbers


@pytest.mark.parametrize(('networks', 'part'), [
    (made_up(mediates=False), 'by the intervention'), (made_up(a=-.2), 'more modular'),
    (made_up(b=0), 'by the path'), (made_up(direct=.2), 'a narrower gap')])
def test_not_supported_if_one_fails(networks, part):
    found = finding(networks)
    assert found.verdict == 'does not hold' and f'{part}: no' in found.why


def test_every_point_that_raises_modularity_counts():
    "One that does not raise it counts for nothing; without any there is no verdict"
    networks = made_up()
    networks.loc['forced_2', 'gap'] = networks.loc['baseline', 'gap'].to_numpy() + .1 + .01 * np.arange(12)
    assert finding(networks).verdict == 'does not hold' and finding(networks, BOTH[:1]).verdict == 'holds'
    networks.loc['forced_2', 'q'] = networks.loc['baseline', 'q'].to_numpy() - .1 + .001 * np.arange(12)
    assert finding(networks).verdict == 'holds'
    with pytest.raises(Undecidable, match='none of .*forced_2.* raises q'): finding(networks, BOTH[1:])


def test_networks_that_learn_less_decide_nothing():
    for point in ('l1', 'forced_1'):
        networks = made_up()
        networks.loc[point, 'accuracy'] = .8 - MOST_LOST - .01
        with pytest.raises(Undecidable, match=f'networks of {point} lose 0.040'): finding(networks)
    check_learned(made_up().assign(accuracy=lambda t: .8 + .1 * (t.index.get_level_values(0) == 'l1')), ['l1'])
    with pytest.raises(Undecidable, match='needs networks of l2, there are none'): check_learned(made_up(), ['l2'])


# tables and figures

def test_networks_of_a_table():
    "Trained networks; values of sub-networks are averaged, and n-cut is turned"
    found = []
    for variation in ('baseline', 'l1'):
        for trained in (False, True):
            of = network(seed=3, trained=trained, variation=variation)
            found += rows(of, 'ncut', 2. + trained) + rows(of, 'digit_fi', [.2, .4 + trained], ['subnetwork'])
    wide = mediation_networks(table_of(found))
    assert [*wide.index] == [('baseline', 3), ('l1', 3)]
    assert wide['ncut'].tolist() == [-3, -3] and wide['digit_fi'].tolist() == pytest.approx([.8, .8])


def test_figure():
    fig = figure_mediation(made_up().assign(other=1.), {'L1': ['l1'], 'force': BOTH}, ['q', 'other'])
    assert len(fig.axes) == 2 and fig.axes[0].get_ylabel() == 'generalization gap'
    means = made_up().groupby('variation').mean()
    rings = {line.get_label(): line.get_xydata() for line in fig.axes[0].lines if not line.get_label().startswith('_')}
    assert [*rings] == ['none', 'L1', 'force']
    np.testing.assert_allclose(rings['force'], means.loc[BOTH, ['q', 'gap']])


def test_loads_no_torch():
    code = "import sys; import modspec.studies.causes.mediation; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)
