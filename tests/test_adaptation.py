"""Steps to another goal: what is learned already, what cannot be learned, alone as stacked; and the regression"""
from dataclasses import replace

import pytest
import torch
from test_causes import invented

from modspec.analysis.evidence import Undecidable
from modspec.core.data import as_inputs, load_dataset
from modspec.core.tasks import RETINA
from modspec.engine.plan import study_named
from modspec.measures.adaptation import ADAPTED_TO, adaptation, adaptation_goals, steps_to_learn
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.studies.causes.adapting import adaptation_rows
from modspec.studies.causes.effects import caused_networks
from modspec.training.loop import train

RETINA_DATA = load_dataset('retina')
LABELS = RETINA_DATA.train.labels
X = as_inputs(RETINA_DATA.train.images, .5, .5)[None, None]
HOW = study_named('causes').settings(adapt_steps=60)


@pytest.fixture(scope='module')
def trained():
    stack = init_feedforward(FeedForward(8, (16, 8), 2, 'tanh'), [0, 1, 2], start='glorot')
    return train(stack, RETINA_DATA, study_named('causes').settings(epochs=2))[0]


def test_what_is_known_takes_no_steps(trained):
    target = RETINA.target(LABELS[:, None]).expand(3, -1)
    assert steps_to_learn(trained, X, target, lr=.01, most=20).tolist() == [0, 0, 0]


def test_what_cannot_be_learned_takes_all_steps(trained):
    deaf = replace(trained, weights={name: w * (name != 'W_1') for name, w in trained.weights.items()})
    other = RETINA.goal('xor').target(LABELS[:, None]).expand(3, -1)
    assert steps_to_learn(deaf, X, other, lr=0., most=20).tolist() == [20, 20, 20]


def test_two_looks_in_a_row(trained):
    "the time is that of the first look of two, so it is a multiple of five below the last step"
    times = adaptation(trained, RETINA_DATA, replace(HOW, adapt_steps=400))
    for t in times.values(): assert ((t % 5 == 0) & (t >= 5)).all()
    assert len({*torch.cat([*times.values()]).tolist()}) > 3


def test_alone_as_stacked_and_left_as_it_is(trained):
    before = {name: w.clone() for name, w in trained.weights.items()}
    stacked, alone = adaptation(trained, RETINA_DATA, HOW), adaptation(trained[1], RETINA_DATA, HOW)
    for name, t in stacked.items(): assert (t[1] - alone[name][0]).abs() <= 5
    assert all(torch.equal(w, trained.weights[name]) and not w.requires_grad for name, w in before.items())


def test_unrelated_goals_are_as_far(trained):
    goals, first = adaptation_goals(trained, LABELS), RETINA.target(LABELS[:, None])
    for name in ADAPTED_TO:
        far = (goals[name][0] != first).sum()
        assert ((goals[f'{name}_unrelated'] != first).sum(1) == far).all()
    assert not torch.equal(goals['or_unrelated'][0], goals['or_unrelated'][1])


def test_weights_that_are_no_numbers_are_refused(trained):
    broken = {name: w.clone() for name, w in trained.weights.items()}
    broken['W_1'][1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match='network 1'):
        adaptation(replace(trained, weights=broken), RETINA_DATA, HOW)


def test_no_regression_without_the_measure():
    with pytest.raises(Undecidable, match='needs the measure adaptation'):
        adaptation_rows(caused_networks(invented(dict(a=1.))))
