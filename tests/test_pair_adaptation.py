"""Pairs that are asked something else: goals, looks, links that stay, and what is not asked for"""
from dataclasses import replace

import pytest
import torch

import modspec.measures.pair_adaptation as home
from modspec.analysis.tables import read_table
from modspec.core.data import load_dataset
from modspec.core.registry import entries
from modspec.core.tasks import PARITY
from modspec.engine.measure import applies
from modspec.engine.plan import make_run, study_named
from modspec.engine.run import run
from modspec.engine.store import lacking
from modspec.measures.pair_adaptation import (
    PAIR_GOALS,
    looks,
    pair_adaptation,
    pair_course,
    pair_goals,
    steps_of_course,
)
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.training.loop import train
from modspec.training.parameters import Parameters, applying, make_parameters

DIGITS, STUDY = load_dataset('digits'), study_named('digit_pairs')
CELLS = torch.cartesian_prod(torch.arange(10), torch.arange(10)).flip(1)
SHOWN = PARITY.allowed(CELLS)
HOW = make_parameters(dict(pairs_adapt_steps=20, batch_size=32, sparsity=1.), STUDY.base, STUDY.offers)


@pytest.fixture(scope='module')
def begun(): return init_stack(Recurrent(64, n_hidden=12), [3, 4, 3], [.05, .05, 1.])


@pytest.fixture(scope='module')
def trained(begun): return train(begun, DIGITS, Parameters(epochs=2, n_pairs=3200))[0]


def test_goals_are_those_of_the_task_and_one_that_shares_nothing(begun):
    goals = pair_goals(begun)
    assert tuple(goals) == PAIR_GOALS
    for name in PAIR_GOALS[:3]:
        assert (goals[name][:, SHOWN] == PARITY.goal(name).target(CELLS[SHOWN])).all()
    main, dealt = PARITY.target(CELLS), goals['permuted']
    assert torch.equal(dealt[:, ~SHOWN], main[~SHOWN].expand(3, -1))
    assert torch.equal(dealt[:, SHOWN].sort(1).values, main[SHOWN].sort().values.expand(3, -1))
    assert torch.equal(dealt[0], dealt[2]) and not torch.equal(dealt[0], dealt[1])  # each seed has its own
    assert (dealt[:, SHOWN] == main[SHOWN]).float().mean() < .25
    with pytest.raises(ValueError, match='goal'): pair_goals(begun, 'parity_sentence')


def test_times_are_of_the_first_of_two_looks():
    course = torch.tensor([[.9, .1, .9, .1], [.1, .1, .9, .9], [.9, .9, .9, .9], [.9, .9, .9, .1]])
    assert looks(30) == [0, 10, 20, 30] and looks(25) == [0, 10, 20, 25] and looks(5) == [0, 5]
    assert steps_of_course(course, torch.full((4,), .5), 30).tolist() == [20, 20, 0, 10]
    assert steps_of_course(course, torch.tensor([.95, .9, .9, .05]), 30).tolist() == [30, 20, 0, 0]


def test_values_of_each_network(trained):
    found = pair_adaptation(trained, DIGITS, HOW)
    assert {*found} == {*entries('measure')['pair_adaptation'].about['values']}
    for name, value in found.items():
        assert value.shape == (3,) and value.isfinite().all() and not value.requires_grad
        assert value.min() >= 0 and value.max() <= (20 if name.startswith('adapt') else 1)


def test_same_bits_alone_as_stacked_and_nothing_is_changed(trained):
    before = {name: w.clone() for name, w in trained.weights.items()}
    found = pair_adaptation(trained, DIGITS, HOW)
    torch.manual_seed(1)
    again, alone = pair_adaptation(trained, DIGITS, HOW), pair_adaptation(trained[1], DIGITS, HOW)
    for name, value in found.items():
        assert torch.equal(again[name], value)
        if not name.startswith('adapt'): assert (alone[name] - value[1]).abs() < .005  # another order of sums
    assert all(torch.equal(w, trained.weights[name]) and not w.requires_grad for name, w in before.items())


def test_untrained_networks_are_their_own_beginners(begun, trained):
    first, later = pair_adaptation(begun, DIGITS, HOW), pair_adaptation(trained, DIGITS, HOW)
    for goal in PAIR_GOALS:
        scratch = f'scratch_pairs_{goal}'
        assert torch.equal(first[f'accuracy_pairs_{goal}'], first[scratch])
        assert torch.equal(first[scratch], later[scratch])


def test_links_learn_where_they_are(trained, monkeypatch):
    seen = []
    def watched(stack, *about):
        seen.append(stack.weights['W_sparse'].detach().clone())
        return torch.zeros(len(stack))
    monkeypatch.setattr(home, 'answered', watched)
    pair_course(trained, DIGITS, pair_goals(trained)['first'], HOW)
    assert len(seen) == len(looks(20)) and torch.equal(seen[0], trained.weights['W_sparse'])
    there = trained.weights['W_sparse'] != 0
    assert (seen[-1][~there] == 0).all() and (seen[-1][there] != seen[0][there]).float().mean() > .5


def test_what_is_known_needs_no_step_and_is_learned_on(trained):
    main = PARITY.target(CELLS).expand(3, -1)
    course = pair_course(trained, DIGITS, main, replace(HOW, pairs_adapt_steps=60))
    blank = pair_course(init_stack(trained.architecture, trained.seeds, .05), DIGITS, main, HOW)
    assert (course[0] > blank[0]).all() and (course[-1] > course[0] - .1).all()


def test_weights_that_are_no_numbers_are_refused(trained):
    broken = {name: w.clone() for name, w in trained.weights.items()}
    broken['W_hr'][1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match='network 1'):
        pair_adaptation(replace(trained, weights=broken), DIGITS, HOW)


def test_taken_of_standard_pairs_of_this_study_where_it_is_asked_for(begun, tmp_path):
    entry, paper = entries('measure')['pair_adaptation'], study_named('extreme_sparsity')
    assert applies(entry, begun, STUDY) and not applies(entry, begun, paper)
    assert 'pair_adaptation' not in applying('measure', paper.offers)
    narrow = init_stack(Recurrent(64, n_hidden=12, n_bottleneck=3), [0], 1.)
    assert not applies(entry, narrow, STUDY)
    short = dict(architecture='standard', epochs=1, n_pairs=640, n_hidden=12, batch_size=32)
    silent, asking = (make_run('digit_pairs', short | more, [.05], seeds=2)
                      for more in ({}, dict(pairs_adapt_steps=10)))
    assert 'pair_adaptation' not in dict(lacking(None, silent))
    assert dict(lacking(None, asking))['pair_adaptation'] == dict(pairs_adapt_steps=10)
    table = read_table(run(asking, tmp_path / 'run', only=['pair_adaptation', 'performance']))
    steps = table[table['measure'] == 'adapt_pairs_reverse']
    assert sorted(steps['trained']) == [False, False, True, True] and steps['value'].between(0, 10).all()
