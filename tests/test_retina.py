"""The retina: its truth counts, what is not separable, and its data set"""
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from modspec.core.data import as_inputs, load_dataset
from modspec.core.registry import entries
from modspec.core.retina import RETINA_GOALS, eyes, retina_goal, retina_pixels
from modspec.core.tasks import RETINA, held_out_pairs, task_named
from modspec.engine.plan import study_named

ALL = torch.arange(256)[:, None]
ANSWERS = {name: retina_goal(name)(ALL) for name in RETINA_GOALS}


def shows_by_the_sentence(o1, o2, i1, i2):
    "three or more black pixels, or one or two black pixels in the outer column only"
    return o1 + o2 + i1 + i2 >= 3 or (i1 + i2 == 0 and o1 + o2 in (1, 2))


def test_objects_are_those_of_the_sentence():
    for label, x in enumerate(itertools.product((0, 1), repeat=8)):
        assert retina_pixels(torch.tensor(label)).int().tolist() == list(x)
        left, right = eyes(torch.tensor(label))
        assert left.item() == shows_by_the_sentence(*x[:4])
        assert right.item() == shows_by_the_sentence(x[6], x[7], x[4], x[5])


@pytest.mark.parametrize(('goal', 'count'), [('left', 128), ('and', 64), ('or', 192), ('xor', 128), ('nand', 192),
                                             ('left_not_right', 64)])
def test_truth_counts(goal, count): assert ANSWERS[goal].sum() == count and set(ANSWERS[goal].tolist()) == {0, 1}


def test_what_needs_no_understanding():
    "B1: constants, and one eye, are right in three quarters"
    def right(a, b): return (a == b).float().mean().item()
    assert right(ANSWERS['and'], torch.tensor(0)) == right(ANSWERS['or'], torch.tensor(1)) == .75
    assert right(ANSWERS['left'], ANSWERS['and']) == right(ANSWERS['left'], ANSWERS['or']) == .75
    assert (ANSWERS['and'] != ANSWERS['or']).sum() == 128


def separable(answers):
    "Is there a plane with all ones on one side? Margins of 1, by linear programming"
    x = np.c_[retina_pixels(ALL[:, 0]).numpy() * 2. - 1, np.ones(256)]
    signed = -(2. * answers.numpy() - 1)[:, None] * x
    return linprog(np.zeros(9), A_ub=signed, b_ub=-np.ones(256), bounds=(None, None)).status == 0


def test_goals_are_not_linearly_separable():
    "B2; and the test finds the plane where there is one"
    assert separable(retina_pixels(ALL[:, 0])[:, 3].long())
    assert not any(separable(ANSWERS[name]) for name in ('left', 'and', 'or'))


def test_two_threshold_units_are_enough_for_an_eye():
    x = retina_pixels(ALL[:, 0])[:, :4].int()
    few, other = x.sum(1) <= 2, -2 * x[:, 0] - 2 * x[:, 1] + x[:, 2] + x[:, 3] > -1.5
    assert torch.equal(~(few & other), ANSWERS['left'] == 1)


def test_data_and_task():
    data = load_dataset('retina')
    x = as_inputs(data.train.images, data.train.mean, data.train.std)
    assert x.shape == (256, 8) and set(x.flatten().tolist()) == {-1., 1.} and data.n_pixels == 8
    assert torch.equal(x[:, 0] == 1, retina_pixels(data.train.labels)[:, 0])
    assert torch.equal(held_out_pairs(data.test, n_subnetworks=1, allowed=RETINA.allowed), torch.arange(256)[None])
    assert task_named('retina') == RETINA and torch.equal(RETINA.target(ALL), ANSWERS['and'])
    assert torch.equal(RETINA.subtasks(ALL).prod(-1), ANSWERS['and'])
    assert [*RETINA.goals][:2] == ['and', 'or']  # the training goal, and its partner


@pytest.mark.parametrize('task', entries('task'))
def test_the_first_goal_is_what_a_task_asks(task):
    asked = task_named(task)
    if not asked.goals: return
    labels = ALL if asked.n_images == 1 else torch.cartesian_prod(torch.arange(10), torch.arange(10))
    assert torch.equal(asked.target(labels), asked.goal([*asked.goals][0]).target(labels))
    with pytest.raises(ValueError, match="goal must be one of .*got 'both'"): asked.goal('both')


@pytest.mark.parametrize(('study', 'settings'), [
    ('causes', dict(dataset='digits')), ('causes', dict(task='digit')), ('upstream_downstream', dict(dataset='retina')),
    ('extreme_sparsity', dict(task='retina'))])
def test_a_task_about_other_images_is_refused(study, settings):
    with pytest.raises(ValueError, match='task .* is about .*, and dataset .* shows'):
        study_named(study).settings(**settings)
