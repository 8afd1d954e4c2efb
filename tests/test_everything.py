"""The table of all causes, measures and tasks: cells and their nulls, reasons, agreement, what remains, the command"""
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from modspec.analysis.panel import WITHOUT, Panel, Piece
from modspec.cli import app
from modspec.core.registry import entries
from modspec.studies.everything.agreeing import agreeing_measures, agreement_table, distances, two_groups
from modspec.studies.everything.claims import Everything, everything_claims, moved_by, read_everything, signs_of_causes
from modspec.studies.everything.remaining import remaining_share, structure_tells, tells_more
from modspec.studies.everything.table import (
    ALL_CAUSES,
    ALL_MEASURES,
    ALL_TASKS,
    CELL,
    cell,
    figure_everything,
    whole_table,
    write_everything,
)


def part(points, seeds=8, noise=.1, knows=None, **more):
    "Networks by name: (cause, strength, how much the value rises, how much of it is beyond the null, density)"
    rng, rows = np.random.default_rng(0), []
    for name, (_, _, up, beyond, density) in ({WITHOUT: ('', 0, 0, 0, 1.)} | points).items():
        for seed in range(seeds):
            apart = rng.normal(0, noise)
            rows.append(dict(variation=name, seed=seed, x=up + apart, x_beyond=beyond + apart, x_z=20 * (up + apart),
                             f=up + apart, density=density + .001 * seed, weight_norm=1.))
    about = pd.DataFrame({name: dict(cause=cause, strength=float(strength), knows=(knows or {}).get(name, True))
                          for name, (cause, strength, *_) in points.items()}).T
    more = dict(measures={'Q*': 'x', 'FI': 'f'}, dealt={'Q*': ['x_beyond']}) | more
    return Piece(pd.DataFrame(rows).set_index(['variation', 'seed']), about, **more)


TWO = {'l1_1': ('L1', 1, 1, 0, .5), 'l1_2': ('L1', 2, 2, 0, .2), 'dropout_1': ('dropout', .1, 1, 1, 1.)}


# cells

def test_a_cell_survives_only_beyond_its_null():
    made = part(TWO)
    kept, gone = cell(made, 'dropout_1', 'Q*'), cell(made, 'l1_2', 'Q*')
    assert kept['clear'] and kept['survives'] and gone['clear'] and not gone['survives']
    assert gone['nulls'] == gone['not_beyond'] == 'x_beyond' and kept['not_beyond'] == ''


def test_the_interval_of_g_is_that_of_the_change_in_other_units():
    row = cell(part(TWO), 'dropout_1', 'Q*')
    scale = row['g'] / row['change']
    assert (row['g_low'], row['g_high']) == pytest.approx((scale * row['low'], scale * row['high']))


def test_no_effect_survives_no_null_and_one_without_a_null_is_not_said_to():
    flat = cell(part({'l1_1': ('L1', 1, 0, 1, 1.)}, noise=.5, seeds=3), 'l1_1', 'Q*')
    assert not flat['clear'] and not flat['survives']
    bare = cell(part(TWO, dealt={}), 'dropout_1', 'Q*')
    assert bare['clear'] and not bare['survives'] and bare['nulls'] == ''


@pytest.mark.parametrize(('up', 'survives'), [(1, True), (-1, False), (.001, False)])
def test_one_of_two_sides_must_be_beyond_networks_that_have_learned_nothing(up, survives):
    "z is 20 for each unit: up by 1 the cause is beyond, down by 1 neither is"
    made = part({'l1_1': ('L1', 1, up, 0, 1.)}, dealt={}, learned={'Q*': 'x_z'})
    assert cell(made, 'l1_1', 'Q*')['survives'] is survives


def test_a_null_that_was_not_taken_at_a_point_is_left_out():
    made = part(TWO)
    made.networks.loc['dropout_1', 'x_beyond'] = np.nan
    assert cell(made, 'dropout_1', 'Q*')['nulls'] == ''


@pytest.mark.parametrize(('networks', 'points', 'said'), [
    (lambda x: x.drop(index=WITHOUT, level='variation'), lambda x: x, 'networks of baseline'),
    (lambda x: x, lambda x: x.rename(index={'l1_1': 'l9'}), 'no networks of l9'),
    (lambda x: x.drop(columns='x_beyond'), lambda x: x, 'the networks lack x_beyond')])
def test_a_part_that_cannot_be_asked_is_refused(networks, points, said):
    made = part(TWO)
    with pytest.raises(ValueError, match=said):
        Piece(networks(made.networks), points(made.points), made.measures, made.dealt)


# the table

def test_the_strongest_point_that_knows_its_task_stands():
    made = part(TWO, knows={'l1_2': False})
    stands = whole_table([Panel('retina', (made,), {})]).query('stands').set_index(CELL)
    assert stands.loc[('retina', 'L1', 'Q*'), 'point'] == 'l1_1'
    nobody = part(TWO, knows=dict.fromkeys(TWO, False))
    stands = whole_table([Panel('retina', (nobody,), {})]).query('stands').set_index(CELL)
    assert 'know their task' in stands.loc[('retina', 'L1', 'Q*'), 'why'] and stands['g'].isna().all()


def test_what_is_not_shown_is_in_the_table_and_does_not_stand(tmp_path):
    hidden = Panel('retina', (part(TWO, shown=False),), {('*', '*'): 'elsewhere'})
    table = whole_table([hidden])
    assert table['g'].notna().sum() == 6 and not table.loc[table['stands'], 'g'].notna().any()
    assert {*table.loc[table['stands'] & (table['task'] == 'retina'), 'why']} == {'elsewhere'}
    assert pd.read_parquet(write_everything(table, tmp_path / 'new')).shape == table.shape


def test_the_picture_has_a_number_or_a_letter_in_every_cell():
    fig = figure_everything(whole_table([Panel('retina', (part(TWO),), {})]))
    assert all(len(ax.texts) == len(ALL_CAUSES) * len(ALL_MEASURES) for ax in fig.axes)
    plt.close(fig)


# agreement

def effects(n=12, tasks=('retina',), causes=4, **columns):
    rows = [dict(task=task, at='', cause=f'cause {k % causes}', point=str(k)) for task in tasks for k in range(n)]
    where = pd.MultiIndex.from_frame(pd.DataFrame(rows))
    return pd.DataFrame({name: f(np.tile(np.arange(n), len(tasks)), np.repeat(np.arange(len(tasks)), n))
                         for name, f in columns.items()}, index=where)


def test_what_differs_between_tasks_is_no_agreement():
    made = effects(tasks=('retina', 'digit pairs'), **{'Q*': lambda k, task: k + 99 * task,
                                                       'FI': lambda k, task: (7 * k) % 12 + 99 * task})
    assert abs(agreeing_measures(made, ('Q*', 'FI')).mean) < .5 < made.corr().iloc[0, 1]


def test_few_points_and_few_causes_have_no_number_and_foreign_measures_are_far():
    few = effects(7, **{'Q*': lambda k, _: k, 'FI': lambda k, _: k})
    one = effects(causes=2, **{'Q*': lambda k, _: k, 'FI': lambda k, _: k})
    assert np.isnan(agreeing_measures(few, ('Q*', 'FI')).mean) and np.isnan(agreeing_measures(one, ('Q*', 'FI')).mean)
    gaps = effects(24, **{'Q*': lambda k, _: 1. * k, 'SI': lambda k, _: np.where(k < 12, k, np.nan),
                          'FI': lambda k, _: np.where(k < 12, np.nan, -k)})
    agree = agreement_table(gaps)
    far = distances(agree)
    assert far.loc['SI', 'FI'] == 1 and far.loc['Q*', 'FI'] == pytest.approx(2) and far.loc['Q*', 'SI'] < 1e-9
    assert sorted(map(sorted, two_groups(agree))) == [['FI'], ['Q*', 'SI']]


# what remains, and what structure tells

def test_what_any_cause_does_at_that_density_does_not_remain():
    line = {'l1_1': ('L1', 1, .5, 0, .5), 'l1_2': ('L1', 2, .9, 0, .1)}
    alike = part(line | {'l2_1': ('L2', 1, .5, 0, .5)}, noise=.001)
    own = part(line | {'l2_1': ('L2', 1, 1., 0, .5)}, noise=.001)
    still = part(line | {'l2_1': ('L2', 1, 1., 0, 1.)}, noise=.001)
    assert abs(remaining_share(alike, 'L2', 'x', 'density')[0].mean) < .05
    assert remaining_share(own, 'L2', 'x', 'density')[0].mean == pytest.approx(.5, abs=.05)
    assert remaining_share(still, 'L2', 'x', 'density')[1] == 'does not move the density'
    assert remaining_share(own, 'L1', 'x', 'density')[1] == 'no other cause comes to its density'


def test_structure_tells_function_where_both_move_together():
    made = part(TWO)
    made.networks['f'] = made.networks['x'].where(made.networks.index.get_level_values(0) != 'dropout_1',
                                                  -made.networks['x'])
    assert structure_tells(made, 'L1', range(8)) > .9 > 0 > structure_tells(made, 'dropout', range(8))
    assert tells_more((made, 'L1'), (made, 'dropout')).low > 0
    made.networks.loc['dropout_1', 'x'] = np.nan
    assert np.isnan(structure_tells(made, 'dropout', range(8)))


# claims

def test_claims_are_decided_by_their_parts():
    panels = tuple(Panel(task, (part(TWO | {'towers_1': ('sparse links', 1, 1, 1, .9)}),), {})
                   for task in ('retina', 'digit pairs'))
    evidence = Everything(whole_table(panels), panels=panels)
    found = {name: one.found(evidence) for name, one in everything_claims().items()}
    assert found['structure-tells-function-under-sparse-links'].verdict == 'holds'
    assert found['a-cause-does-the-same-everywhere'].verdict == 'holds'
    assert found['structure-moves-without-function'].verdict == 'does not hold'
    assert (signs_of_causes(evidence.stands, 'Q*') == 1).all(axis=None)
    moved = moved_by(evidence.stands)
    assert moved.loc[('retina', 'dropout'), 'structure'] == 'Q*' and moved.loc[('retina', 'L1'), 'structure'] == ''


# committed results

def test_every_cell_of_the_committed_results_has_a_number_with_its_interval_or_a_reason():
    "And the table is whole: every panel that is registered, every task, each cell once"
    evidence = read_everything(ROOT / 'results')
    assert len(evidence.panels) == len(entries('panel'))
    stands = evidence.stands
    assert stands.index.is_unique and len(stands) == len(ALL_TASKS) * len(ALL_CAUSES) * len(ALL_MEASURES)
    numbers = stands[stands['why'] == '']
    assert np.isfinite(numbers[['g', 'g_low', 'g_high', 'change', 'low', 'high']]).all(axis=None)
    assert (numbers['low'] <= numbers['change']).all() and (numbers['change'] <= numbers['high']).all()
    assert numbers['knows'].all() and (numbers['n'] >= 2).all() and (numbers['nulls'] != '').all()
    assert stands.loc[stands['why'] != '', 'g'].isna().all() and not (stands['why'] == 'not measured').any()


# the command

def test_results_that_are_not_there_are_refused_before_anything_is_written(tmp_path):
    answer = CliRunner().invoke(app, ['table', '--results', str(tmp_path / 'none'), '--out', str(tmp_path / 'out')])
    assert answer.exit_code == 2 and answer.output.startswith('modspec: ') and answer.output.count('\n') == 1
    assert not (tmp_path / 'out').exists()
