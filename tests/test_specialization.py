"""Properties and refusals of modspec.analysis.specialization; the worked values are in its chapter"""
import invented
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from invented import table_of
from scipy.stats import sem, t

from modspec.analysis.specialization import (
    chance_corrected,
    mean_interval,
    measure_matrices,
    normalized_difference,
    specialization,
    specialization_by_role,
    summarize,
)

unit = st.floats(0.001, 1, allow_subnormal=False)
sizes = st.integers(2, 5)


def rows(m, *, measure='correlation', **of):
    return table_of(invented.rows(invented.network(**of), measure, m))


# the array function

@given(sizes.flatmap(lambda s: arrays(float, (3, s, s), elements=unit)))
def test_range_and_formula(m):
    spec = normalized_difference(m)
    assert spec.shape == m.shape[:-1] and (abs(spec) <= 1).all()
    for i, n in np.ndindex(spec.shape):
        other = np.mean([m[i, n, k] for k in range(m.shape[-1]) if k != n])
        assert spec[i, n] == pytest.approx((m[i, n, n] - other) / (m[i, n, n] + other))


@given(arrays(float, (2, 2), elements=unit))
def test_paper_formula_for_two(m):
    spec = normalized_difference(m)
    for n in (0, 1):
        assert spec[n] == pytest.approx((m[n, n] - m[n, 1 - n]) / (m[n, n] + m[n, 1 - n]))


@given(sizes.flatmap(lambda s: st.tuples(arrays(float, (s, s), elements=unit), st.permutations(range(s)))),
       st.floats(0.1, 10))
def test_renaming_and_scale(m_and_order, scale):
    m, order = m_and_order
    spec = normalized_difference(m)
    np.testing.assert_allclose(normalized_difference(m[np.ix_(order, order)]), spec[order], atol=1e-12)
    np.testing.assert_allclose(normalized_difference(scale * m), spec, atol=1e-12)


@given(arrays(float, (2, 2), elements=unit))
def test_swapped_sub_tasks_change_the_sign(m):
    np.testing.assert_allclose(normalized_difference(m[:, ::-1]), -normalized_difference(m), atol=1e-12)


def test_input_is_left_alone():
    m = np.array([[.9, .1], [.2, .8]])
    before = m.copy()
    normalized_difference(m)
    assert (m == before).all()


@pytest.mark.parametrize('m', [[[0, 0], [1, 1]], [[-.1, .1], [1, 1]], [[.1, -.3], [1, 1]], [[-.5, -.5], [1, 1]]])
def test_sum_not_positive(m):
    with pytest.raises(ValueError, match=r'undefined at \[0\].*must be > 0'): normalized_difference(m)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_not_finite(bad):
    with pytest.raises(ValueError, match=r'must be finite.*m\[1, 0\]'): normalized_difference([[1, 0], [bad, 1]])


@pytest.mark.parametrize('shape', [(2,), (2, 3), (1, 1), (4, 3, 2)])
def test_shape(shape):
    with pytest.raises(ValueError, match='got shape'): normalized_difference(np.ones(shape))


# the table

def random_table(size=2, seeds=3, rng=None):
    rng = rng or np.random.default_rng(0)
    return pd.concat([rows(rng.uniform(.1, 1, (size, size)), measure=measure, seed=seed, trained=trained, sparsity=p)
                      for measure in ('cka', 'correlation', 'weight_mask') for seed in range(seeds)
                      for trained in (True, False) for p in (1e-4, .01, 1.)], ignore_index=True)


@pytest.mark.parametrize('size', [2, 3])
def test_table_equals_array(size):
    table = random_table(size)
    spec = specialization(table.sample(frac=1, random_state=0))  # any order of rows
    assert len(spec) == 3 * 3 * 2 * 3 * (size + 1)
    assert spec['subnetwork'].dtype == 'Int64'
    for names, group in spec.groupby(['measure', 'seed', 'trained', 'sparsity']):
        chosen = table[(table[['measure', 'seed', 'trained', 'sparsity']] == list(names)).all(axis=1)]
        expected = normalized_difference(chosen['value'].to_numpy().reshape(size, size))
        group = group.set_index(group['subnetwork'].fillna(-1))['specialization']
        assert group[-1] == pytest.approx(expected.mean())
        np.testing.assert_allclose(group[list(range(size))], expected)


def test_other_rows_are_passed_over():
    table = random_table()
    scalar = table.iloc[:1].assign(measure='accuracy', subnetwork=pd.NA, subtask=pd.NA, value=np.nan)
    share = table.iloc[:1].assign(measure='decision_share', subtask=pd.NA, value=0.)
    pd.testing.assert_frame_equal(specialization(pd.concat([table, scalar, share])), specialization(table))
    with pytest.raises(ValueError, match=r"no rows with both .*\['accuracy', 'decision_share'\]"):
        specialization(pd.concat([scalar, share]))


def test_a_later_metric_needs_no_registration():
    assert set(specialization(rows([[1, .5], [0, 1]], measure='something_new'))['measure']) == {'something_new'}


def test_undefined_value_is_named():
    table = pd.concat([rows([[1, 0], [0, 1]]), rows([[1, 0], [0, 0]], measure='cka', seed=7, sparsity=.5)])
    with pytest.raises(ValueError, match='sub-network 1 .*sparsity=0.5.*seed=7.*measure=cka'): specialization(table)
    left = specialization(table, undefined='omit')
    assert set(left['measure']) == {'correlation'} and len(left) == 3
    assert specialization(table[table['seed'] == 7], undefined='omit').empty
    with pytest.raises(ValueError, match="'raise' or 'omit'"): specialization(table, undefined='drop')


def test_missing_value_is_named():
    table = rows([[1, 0], [0, 1]], seed=4)
    with pytest.raises(ValueError, match=r'M\(1, 0\) is missing or NaN .*seed=4'): specialization(table.drop(index=2))
    table.loc[2, 'value'] = np.nan
    with pytest.raises(ValueError, match=r'M\(1, 0\) is missing or NaN .*seed=4'): specialization(table)
    with pytest.raises(ValueError, match='must be finite'): specialization(table.fillna({'value': np.inf}))


def test_sub_networks_of_one_kind_only():
    with pytest.raises(ValueError, match=r'M\(0, 1\) is missing'):
        specialization(rows([[1, 0], [0, 1]]).query('subtask == 0'))


def test_duplicates_and_columns():
    table = rows([[1, 0], [0, 1]])
    with pytest.raises(ValueError, match='two values for .*Select one first'): specialization(pd.concat([table, table]))
    with pytest.raises(ValueError, match=r"needs the columns \['trained'\]"):
        specialization(table.drop(columns='trained'))


def test_matrices():
    networks, m = measure_matrices(pd.concat([rows([[.1, .2], [.3, .4]], seed=1), rows([[.5, .6], [.7, .8]], seed=0)]))
    assert networks['seed'].tolist() == [0, 1]
    assert m.tolist() == [[[.5, .6], [.7, .8]], [[.1, .2], [.3, .4]]]


def test_table_survives_parquet(tmp_path):
    spec = specialization(random_table())
    spec.to_parquet(tmp_path / 'spec.parquet')
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / 'spec.parquet'), spec)


# any setting

def test_settings_are_carried_along():
    "A sweep over something else: each value of it is a network of its own, and a column of the result"
    table = pd.concat([rows([[1, s], [s, 1]], lr=lr) for lr, s in ((.1, .5), (1., .2))])
    spec = specialization(table)
    found = spec[spec['subnetwork'].isna()].set_index('lr')['specialization']
    assert found[.1] == pytest.approx(1 / 3) and found[1.] == pytest.approx(2 / 3)
    assert summarize(spec[spec['subnetwork'].isna()], 'specialization', 'lr')['n'].tolist() == [1, 1]


def test_measures_that_have_none():
    "A description may say that a measure of sub-networks and sub-tasks is not to be normalized"
    table = pd.concat([rows([[1, 0], [0, 1]]), rows([[1, 0], [0, 1]], measure='other')], ignore_index=True)
    table.attrs['measures'] = {'other': dict(axes=['subnetwork', 'subtask'])}
    assert set(specialization(table)['measure']) == {'correlation'}
    with pytest.raises(ValueError, match='no measure here has'): specialization(table[table['measure'] == 'other'])


def test_values_with_a_reason_to_be_empty():
    table = pd.concat([rows([[1, 0], [0, 1]]), rows(np.full((2, 2), np.nan), seed=1).assign(reason='silent')])
    assert set(specialization(table)['seed']) == {0}


# roles

def shares(values, **of):
    return table_of(invented.rows(invented.network(**of), 'decision_share', values))


@pytest.mark.parametrize('share, decider', [([.9, .1], 0), ([.1, .9], 1), ([.5, .5], 0)])
def test_role(share, decider):
    m = [[.9, .3], [.3, .5]]
    by_role = specialization_by_role(specialization(rows(m)), shares(share))
    expected = normalized_difference(m)
    assert by_role['role'].tolist() == ['decides more often', 'the other']
    np.testing.assert_allclose(by_role['specialization'], expected[[decider, 1 - decider]])


def test_role_is_that_of_the_same_network():
    table = pd.concat([random_table(), random_table().assign(architecture='bottleneck')])
    share = pd.concat([shares([a, 1 - a], seed=seed, trained=trained, sparsity=p, architecture=architecture)
                       for seed in range(3) for trained in (True, False) for p in (1e-4, .01, 1.)
                       for architecture in ('standard', 'bottleneck')
                       for a in [.9 if (seed + trained + (p == 1) + (architecture == 'standard')) % 2 else .2]])
    spec = specialization(table)
    by_role = specialization_by_role(spec, pd.concat([table, share]).sample(frac=1, random_state=0))
    assert len(by_role) == 2 * 3 * 3 * 2 * 3 * 2
    values = spec.set_index([c for c in spec if c not in ('specialization', 'n_connections', 'q')])['specialization']
    for row in by_role.itertuples():
        odd = (row.seed + row.trained + (row.sparsity == 1) + (row.architecture == 'standard')) % 2
        n = (0 if odd else 1) if row.role == 'decides more often' else (1 if odd else 0)
        network = (row.dataset, row.architecture, row.sparsity, row.seed, row.trained, row.measure, n)
        assert row.specialization == values[network]


def test_role_among_three():
    m = np.random.default_rng(0).uniform(.1, 1, (3, 3))
    by_role = specialization_by_role(specialization(rows(m)), shares([.2, .2, .6]))
    spec = normalized_difference(m)
    np.testing.assert_allclose(by_role['specialization'], [spec[2], spec[:2].mean()])


def test_role_needs_the_decision_share():
    spec = specialization(pd.concat([rows([[1, 0], [0, 1]], seed=0), rows([[1, 0], [0, 1]], seed=3)]))
    given = pd.concat([shares([.9, .1], seed=0), shares([.9, .1], seed=3)])
    for lacking in (given[given['seed'] == 0], given[(given['seed'] == 0) | (given['subnetwork'] == 0)]):
        with pytest.raises(ValueError, match='no decision_share for .*seed=3'): specialization_by_role(spec, lacking)
    with pytest.raises(ValueError, match='no decision_share for .*trained=True'):
        specialization_by_role(spec, given.assign(trained=False))
    with pytest.raises(ValueError): specialization_by_role(spec, pd.concat([given, given]))


# chance

def test_correction_by_hand():
    table = pd.concat([rows([[.9, .05], [.3, .7]], measure='bottleneck', trained=True),
                       rows([[.5, .10], [.1, .4]], measure='bottleneck', trained=False)])
    corrected = chance_corrected(table)
    np.testing.assert_allclose(corrected['value'], [.8, 0, 2 / 9, .5])
    assert corrected['trained'].all() and list(corrected.columns) == list(table.columns)
    assert (corrected.dtypes[['subnetwork', 'subtask']] == 'Int64').all()


@settings(max_examples=30)
@given(arrays(float, (2, 3, 2, 2), elements=st.floats(-1, .99)))
def test_correction_matches_its_own_network(m):
    table = pd.concat([rows(m[t, s], measure='bottleneck', trained=bool(t), seed=s) for t in (0, 1) for s in range(3)])
    corrected = chance_corrected(table.sample(frac=1, random_state=1))
    assert corrected['value'].between(0, 1).all() and len(corrected) == 12
    for row in corrected.itertuples():
        got, base = (m[t, row.seed, row.subnetwork, row.subtask] for t in (1, 0))
        assert row.value == pytest.approx(np.clip((got - base) / (1 - base), 0, 1))


def test_correction_leaves_out_what_has_no_floor():
    table = random_table()
    assert set(chance_corrected(table)['measure']) == {'cka'}
    assert set(chance_corrected(table, measures=['correlation'])['measure']) == {'correlation'}
    with pytest.raises(ValueError, match='none of .*weight_mask'):
        chance_corrected(table[table['measure'] == 'weight_mask'])


def test_correction_needs_its_base():
    table = random_table()
    with pytest.raises(ValueError, match='untrained value below 1, got nan'):
        chance_corrected(table[table['trained'] | (table['seed'] != 1)])
    with pytest.raises(ValueError, match='untrained value below 1, got 1.0'):
        chance_corrected(table.assign(value=table['value'].where(table['trained'], 1.)))


# summary

def test_interval():
    x = np.random.default_rng(0).normal(3, 1, size=50)
    expected = t.interval(.95, len(x) - 1, loc=x.mean(), scale=sem(x))
    assert mean_interval(x) == pytest.approx(expected)
    np.testing.assert_allclose(mean_interval(np.stack([x, 2 * x], 1)), np.stack([expected, 2 * np.array(expected)], 1))
    assert mean_interval(np.full(5, .3)) == (pytest.approx(.3), pytest.approx(.3))
    assert np.isnan(mean_interval(x[:1])).all()


@pytest.mark.parametrize('n', [3, 5, 10])
def test_interval_covers(n):
    "What it says, also with few seeds"
    low, high = mean_interval(np.random.default_rng(1).normal(size=(n, 20_000)))
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(.95, abs=.006)


def test_summary_of_a_point_ignores_the_others():
    spec = specialization(random_table(seeds=4))
    by = ['measure', 'trained', 'sparsity', 'subnetwork']
    whole = summarize(spec, 'specialization', by)
    alone = summarize(spec[spec['measure'] == 'weight_mask'], 'specialization', by)
    pd.testing.assert_frame_equal(whole[whole['measure'] == 'weight_mask'].reset_index(drop=True), alone)
    assert (whole['n'] == 4).all() and whole['subnetwork'].isna().sum() == 18
    assert (whole.dtypes[by] == spec.dtypes[by]).all()


def test_summary_refuses():
    spec = specialization(random_table())
    point = ['measure', 'trained', 'sparsity', 'subnetwork']
    with pytest.raises(ValueError, match='a seed occurs twice'): summarize(spec, 'specialization', point[:3])
    with pytest.raises(ValueError, match=r"no columns \['nothing'\]"): summarize(spec, 'nothing', point)
    with pytest.raises(ValueError, match='is NaN for'):
        summarize(spec.assign(specialization=np.nan), 'specialization', point)
    assert len(summarize(rows([[1, 0], [0, 1]]).iloc[:1], 'value', 'measure')) == 1
