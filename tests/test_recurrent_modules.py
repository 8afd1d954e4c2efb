"""Modules of all units against the two sub-networks: blocks, weights without edges, and what is not asked for"""
from dataclasses import replace

import numpy as np
import pytest
import torch

from modspec.analysis.tables import read_table
from modspec.core.data import load_dataset
from modspec.core.registry import entries
from modspec.engine.measure import applies
from modspec.engine.plan import make_run, study_named
from modspec.engine.run import run
from modspec.engine.store import lacking
from modspec.measures.alignment import adjusted_similarity
from modspec.measures.recurrent_modules import against_split, recurrent_modules, similarity_beside_chance
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.training.parameters import make_parameters

DIGITS, STUDY = load_dataset('digits'), study_named('extreme_sparsity')
HOW = make_parameters(dict(module_pairs=40, sparsity=1.), STUDY.base, STUDY.offers)
ENTRY = entries('measure')['recurrent_modules']
KINDS = 'q', 'split_q', 'clusters', 'split_ecs', 'split_ecs_chance'
ASKED = [f'{name}{end}' for end in ('', '_normalized') for name in ('input_covariance', 'input_jacobian',
                                                                   'output_jacobian')]


@pytest.fixture(scope='module')
def begun(): return init_stack(Recurrent(64, n_hidden=12), [3, 4, 3], [1 / 144, .1, 1.])


@pytest.fixture(scope='module')
def found(begun): return recurrent_modules(begun, DIGITS, HOW)


def test_similarity_and_what_chance_would_give():
    a, b = np.repeat([0, 1], 10), np.arange(20) % 3
    similarity, chance = similarity_beside_chance(a, b)
    assert (similarity - chance) / (1 - chance) == pytest.approx(adjusted_similarity(a, b))
    rng = np.random.default_rng(0)
    drawn = [similarity_beside_chance(a, rng.permutation(b))[0] for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(chance, abs=.005)
    assert similarity_beside_chance(a, np.where(np.arange(20), -1, 0)) == [0, 0]
    partly = np.where(np.arange(20) < 5, -1, a)  # units without a module say nothing
    assert similarity_beside_chance(a, partly)[0] == 1


def test_blocks_that_are_and_are_not_the_sub_networks():
    A, split = torch.block_diag(torch.ones(6, 6), torch.ones(6, 6)).fill_diagonal_(0), torch.arange(12) // 6
    same = against_split(A, split, split)
    assert same['q'] == same['split_q'] == .5 and same['clusters'] == 2 and same['split_ecs'] == 1
    order = torch.arange(12).view(6, 2).T.flatten().argsort()
    across = against_split(A[order][:, order], split[order], split)
    assert across['q'] == .5 and across['split_q'] < .1 and across['split_ecs'] < across['split_ecs_chance'] + .1
    assert not any(against_split(0 * A, torch.full((12,), -1), split).values())


def test_values_are_those_declared(found):
    assert {*found} == {*ENTRY.about['values']}
    assert {f'{kind}_recurrent_{name}' for kind in KINDS for name in ASKED} < {*found}
    for name, values in found.items():
        low, high = ENTRY.about['values'][name].get('range', (0, 24))
        assert values.shape == (3,) and values.isfinite().all() and values.dtype == torch.double
        assert values.min() >= low and values.max() <= high


def test_the_best_division_is_no_worse_than_the_sub_networks(found):
    for name in ASKED: assert (found[f'q_recurrent_{name}'] >= found[f'split_q_recurrent_{name}'] - 1e-9).all()


@pytest.mark.parametrize('name', ['input_jacobian_normalized', 'output_jacobian_normalized'])
def test_sub_networks_that_are_not_joined_are_found_and_those_that_are_one_are_not(begun, found, name):
    alone = begun.weights | dict(W_sparse=torch.zeros_like(begun.weights['W_sparse']))
    apart = recurrent_modules(replace(begun, weights=alone), DIGITS, HOW)
    assert (apart[f'split_q_recurrent_{name}'] > .45).all()
    assert (apart[f'split_ecs_recurrent_{name}'] > apart[f'split_ecs_chance_recurrent_{name}'] + .2).all()
    assert apart[f'split_q_recurrent_{name}'].min() > found[f'split_q_recurrent_{name}'][2] + .2


def test_same_alone_as_stacked_and_nothing_is_changed(begun, found):
    before = {name: w.clone() for name, w in begun.weights.items()}
    torch.manual_seed(1)
    again, alone = recurrent_modules(begun, DIGITS, HOW), recurrent_modules(begun[1], DIGITS, HOW)
    for name, values in found.items():
        assert torch.equal(again[name], values)
        if name.startswith('split_q'): torch.testing.assert_close(alone[name], values[1:2], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(w, begun.weights[name]) for name, w in before.items())


def test_networks_of_three_and_networks_without_weights():
    three = init_stack(Recurrent(64, n_hidden=8, n_subnetworks=3), [0], .1)
    assert three.architecture.groups().unique().tolist() == [0, 1, 2]
    values = recurrent_modules(three, DIGITS, replace(HOW, n_subnetworks=3, module_pairs=20))
    assert values['split_q_recurrent_input_jacobian_normalized'] > .3
    two = init_stack(Recurrent(64, n_hidden=8), [0], .1)
    empty = replace(two, weights={name: torch.zeros_like(w) for name, w in two.weights.items()})
    assert not any(value.any() for value in recurrent_modules(empty, DIGITS, HOW).values())


def test_weights_that_are_no_numbers_are_refused(begun):
    broken = {name: w.clone() for name, w in begun.weights.items()}
    broken['W_hr'][1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match='network 1'):
        recurrent_modules(replace(begun, weights=broken), DIGITS, HOW)


@pytest.mark.parametrize('study', ['extreme_sparsity', 'digit_pairs'])
def test_taken_of_standard_networks_where_it_is_asked_for(begun, study):
    narrow = init_stack(Recurrent(64, n_hidden=12, n_bottleneck=3), [0], 1.)
    single = init_stack(Recurrent(64, n_hidden=12, n_subnetworks=1), [0], 1.)
    assert applies(ENTRY, begun, study_named(study))
    assert not applies(ENTRY, narrow, study_named(study)) and not applies(ENTRY, single, study_named(study))
    silent, asking = (make_run(study, dict(architecture='standard', n_hidden=12) | more, [.05], seeds=2)
                      for more in ({}, dict(module_pairs=10)))
    assert 'recurrent_modules' not in dict(lacking(None, silent))
    assert dict(lacking(None, asking))['recurrent_modules'] == dict(module_pairs=10)


def test_a_run_measures_before_and_after_training(tmp_path):
    short = dict(architecture='standard', epochs=1, n_pairs=640, n_hidden=12, batch_size=32, module_pairs=10)
    table = read_table(run(make_run('extreme_sparsity', short, [.05], seeds=2), tmp_path / 'run',
                           only=['recurrent_modules', 'performance']))
    rows = table[table['measure'] == 'q_recurrent_output_jacobian']
    assert sorted(rows['trained']) == [False, False, True, True] and rows['value'].between(0, 1).all()
