"""Switching goals: the schedule, and goals that are made"""
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modspec.causes.both_goals import BothGoals
from modspec.causes.goals import SwitchingGoals, goal_cells, nearby, on_training_goal, permuted
from modspec.core.registry import entries
from modspec.core.tasks import PARITY, RETINA, task_named
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, init_stack

PATTERNS = torch.arange(256)[:, None]
CELLS = torch.cartesian_prod(torch.arange(10), torch.arange(10))


@given(st.integers(1, 40), st.integers(0, 30))
def test_schedule(period, settle):
    "B15: with an odd number of periods, training goal iff floor(t / E) is even; the last period always is one"
    n = 5 * period + settle
    course = [on_training_goal(t, n, period, settle) for t in range(n)]
    assert course[:5 * period] == [t // period % 2 == 0 for t in range(5 * period)] and all(course[5 * period:])
    even = [on_training_goal(t, 4 * period, period) for t in range(4 * period)]
    assert all(even[-period:]) and not any(even[:period])


def test_made_goals():
    "B16: as many ones as OR, or as far from AND as OR"
    both, either = (RETINA.goal(name).target(PATTERNS) for name in ('and', 'or'))
    for seed in range(5):
        source = torch.Generator().manual_seed(seed)
        assert permuted(either, generator=source).sum() == 192
        near = nearby(both, either, generator=source)
        assert (near != both).sum() == 128 and near[both == 1].all()


@pytest.mark.parametrize('name', ['permuted', 'near'])
def test_each_network_has_a_goal_of_its_own(name):
    stack = init_feedforward(FeedForward(8, (4,), 2), [0, 1])
    how = SimpleNamespace(task='retina', switch_to=name, settle=0)
    asked = SwitchingGoals(stack, torch.tensor([1., 1.]), how, 4).target(2, PATTERNS[None])
    alone = SwitchingGoals(stack[1], torch.tensor([1.]), how, 4).target(2, PATTERNS[None])
    assert not torch.equal(asked[0], asked[1]) and torch.equal(asked[1], alone[0])


def test_cells_of_digit_pairs():
    "two digits are one cell, and a permuted goal moves answers of pairs that are shown"
    assert goal_cells(torch.tensor([[3, 7], [0, 0]])).tolist() == [73, 0]
    assert goal_cells(PATTERNS).tolist() == [*range(256)]
    stack = init_stack(Recurrent(64, n_hidden=4), [0], 1.)
    how = SimpleNamespace(task='parity', switch_to='permuted', settle=0)
    shown = CELLS[PARITY.allowed(CELLS)]
    asked, = SwitchingGoals(stack, torch.tensor([1.]), how, 4).target(2, shown[None])
    related = PARITY.goal('reverse').target(shown)
    assert torch.equal(asked.sort().values, related.sort().values) and not torch.equal(asked, related)


def test_near_is_about_ones_and_zeros():
    stack = init_stack(Recurrent(64, n_hidden=4), [0], 1.)
    how = SimpleNamespace(task='parity', switch_to='near', settle=0)
    with pytest.raises(ValueError, match="answers up to 9; a 'permuted' goal may have any"):
        SwitchingGoals(stack, torch.tensor([1.]), how, 4)


@pytest.mark.parametrize('name', ['parity_sentence', 'retina_random'])
def test_a_task_of_one_goal_has_no_other(name):
    "Also for whoever makes the causes without settings"
    stack = init_feedforward(FeedForward(8, (4,), 2), [0])
    how = SimpleNamespace(task=name, switch_to='related', settle=0, lr=.01)
    with pytest.raises(ValueError, match=f'{name!r} has no goals'): SwitchingGoals(stack, torch.ones(1), how, 4)
    with pytest.raises(ValueError, match=f'{name!r} has no second'): BothGoals(stack, torch.ones(1), how, 4)


@pytest.mark.parametrize('name', entries('task'))
def test_what_a_task_registers_is_what_it_is(name):
    "The goals, in their order, and how many answers there are"
    task, about = task_named(name), entries('task')[name].about
    assert about.get('goals', []) == [*task.goals]
    cells = {'patterns': PATTERNS, 'digits': CELLS}[about.get('shows', 'digits')]
    cells = cells[:, :task.n_images or 2]
    assert task.target(cells[task.allowed(cells)]).unique().tolist() == [*range(about['answers'])]
