"""Rules on pairs that adapt decide what they should on invented networks, and real networks give what they need"""
import numpy as np
import pandas as pd
import pytest

from modspec.analysis.evidence import VERDICTS, Evidence, Undecidable
from modspec.analysis.tables import read_table
from modspec.engine.plan import make_run
from modspec.engine.run import run
from modspec.measures.pair_adaptation import PAIR_GOALS
from modspec.studies.digit_pairs.adapting import (
    ADAPTING_CLAIMS,
    CALLED_MODULAR,
    adapting_pairs,
    figure_pair_adaptation,
    goals_that_count,
    over_beginners,
    pair_rows,
    slope_estimates,
    slopes_without,
)

HOLDS, PARTLY, FAILS, OPEN = VERDICTS
POINTS = 'baseline', 'l1_2', 'dropout_2', 'goals_1'
SCRATCH = dict(reverse=.8, first=.9, parity=.7, permuted=.4)


def invented(steps=lambda m, goal: 50., further=lambda m, goal: 0., scratch=SCRATCH, accuracy=.9, of_norm=0., n=5):
    "Networks whose modularity rises from point to point, with steps and ends that follow from it"
    rng, rows = np.random.default_rng(0), []
    for p, seed, (k, point) in ((p, s, point) for p in (.01, 1.) for s in range(n) for point in enumerate(POINTS)):
        m, norm = .4 + .1 * k + .05 * rng.random(), rng.random() - .2 * k
        known = accuracy if point == 'l1_2' else .9
        values = dict(accuracy=known, digit_fi=m, q_max=m, density=rng.random(), weight_norm=np.exp(norm),
                      saturated=rng.random())
        for goal in PAIR_GOALS:
            luck, more = .05 * rng.normal(), .005 * rng.normal()
            values |= {f'adapt_pairs_{goal}': (steps(m, goal) + 10) * np.exp(of_norm * norm + luck) - 10,
                       f'accuracy_pairs_{goal}': scratch[goal] + further(m, goal) + more,
                       f'scratch_pairs_{goal}': scratch[goal]}
        about = dict(dataset='digits', architecture='standard', sparsity=p, variation=point, seed=seed)
        rows += [about | dict(measure=name, value=value, trained=True) for name, value in values.items()]
        rows += [about | dict(measure=f'adapt_pairs_{goal}', value=100., trained=False) for goal in PAIR_GOALS]
    return pd.DataFrame(rows)


def verdicts(table): return {name: claim.found(Evidence(table)).verdict for name, claim in ADAPTING_CLAIMS.items()}


def modular(m, goal): return 90 * np.exp(-2 * m * (goal != 'permuted'))


def test_modular_networks_that_are_faster_at_what_shares_parts():
    found = verdicts(invented(modular, lambda m, goal: .2 * m * (goal != 'permuted')))
    assert {*found.values()} == {HOLDS}


def test_modular_networks_that_are_faster_at_everything():
    "It is not the parts, then"
    found = verdicts(invented(lambda m, goal: 90 * np.exp(-2 * m), lambda m, goal: .2 * m))
    assert found['modular-pairs-are-faster'] == found['modular-pairs-come-further'] == PARTLY
    assert found['who-knows-the-task-is-faster'] == HOLDS and found['but-not-at-what-shares-nothing'] == FAILS
    assert found['changing-goals-prepare'] == PARTLY


def test_networks_that_are_all_alike_or_slower():
    assert verdicts(invented())['modular-pairs-are-faster'] == FAILS
    slow = verdicts(invented(lambda m, goal: 150 * np.exp(m)))
    assert slow['who-knows-the-task-is-faster'] == slow['modular-pairs-are-faster'] == FAILS


def test_weights_that_make_fast_are_not_modules():
    found = slope_estimates(adapting_pairs(invented(of_norm=1.)))
    assert all(abs(slope.mean) < .05 for slope in found.values())


def test_only_goals_that_beginners_learn_have_times():
    networks = adapting_pairs(invented(scratch=SCRATCH | dict(parity=.59)))
    assert goals_that_count(networks) == ['reverse', 'first', 'permuted']
    none = invented(scratch=SCRATCH | dict(permuted=.15))
    assert 'permuted' not in goals_that_count(adapting_pairs(none))
    found = verdicts(none)
    assert found['modular-pairs-are-faster'] == found['but-not-at-what-shares-nothing'] == OPEN
    assert found['modular-pairs-come-further'] != OPEN and found['who-knows-the-task-is-faster'] == HOLDS


def test_points_that_do_not_know_their_task_and_goals_that_were_seen_are_left_out():
    networks = adapting_pairs(invented(accuracy=.8))
    assert {*networks.index.unique('variation')} == {'baseline', 'dropout_2', 'goals_1'}
    rows = pair_rows(networks, PAIR_GOALS)
    assert {*rows[rows['goal'] == 'reverse']['variation']} == {'baseline', 'dropout_2'}
    centred = rows.groupby(['sparsity', 'seed', 'goal'])[[*CALLED_MODULAR, 'value']].mean()
    assert centred.abs().max(axis=None) < 1e-12


def test_what_cannot_be_decided():
    table = invented(modular)
    for lacking in (table[~table['measure'].str.startswith('adapt')], table.drop(columns='variation'),
                    table[table['variation'] != 'baseline']):
        assert {*verdicts(lacking).values()} == {OPEN}
    with pytest.raises(Undecidable, match='three seeds'): slope_estimates(adapting_pairs(invented(modular, n=2)))


def test_slopes_without_a_point_and_pictures():
    networks = adapting_pairs(invented(modular))
    without = slopes_without(networks)
    assert [*without.index] == ['none', *sorted(POINTS)] and (without < 0).all(axis=None)
    assert without.loc['none'].tolist() == [slope.mean for slope in slope_estimates(networks).values()]
    summed = over_beginners(networks)
    assert (summed['steps', 'first'] < 1).all() and len(summed) == 8
    assert len(figure_pair_adaptation(networks).axes) == 8


def test_real_networks_have_what_is_needed(tmp_path):
    short = dict(architecture='standard', epochs=1, n_pairs=640, n_hidden=12, batch_size=32, q_draws=2, q_trials=1,
                 pairs_adapt_steps=10)
    needed = ['pair_adaptation', 'performance', 'digit_sides', 'communities', 'sizes']
    tables = [read_table(run(make_run('digit_pairs', short | more, [.05, 1.], seeds=3), tmp_path / name, only=needed))
              .assign(variation=name) for name, more in dict(baseline={}, l1_2=dict(l1_strength=1e-4)).items()]
    networks = adapting_pairs(pd.concat(tables))
    assert len(networks) == 12 and networks.notna().all(axis=None)
    assert len(slope_estimates(networks, ends=True)) == 4
