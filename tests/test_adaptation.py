"""Steps to another goal: what is learned already, what cannot be learned, alone as stacked; and the regression"""
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from test_causes import invented

from modspec.analysis.evidence import Undecidable
from modspec.core.data import as_inputs, load_dataset
from modspec.core.tasks import RETINA
from modspec.engine.plan import study_named
from modspec.measures.adaptation import (
    ADAPTED_TO,
    WAYS_TO_ADAPT,
    adaptation,
    adaptation_goals,
    at_first_norms,
    glorot_norms,
    learning_pace,
    steps_to_learn,
)
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.stack import last_state
from modspec.studies.causes.adapting import (
    TIMES,
    adaptation_rows,
    median_steps,
    networks_by_way,
    not_yet,
    periods_in_units,
    ratio_to_scratch,
    slopes_by_way,
)
from modspec.studies.causes.effects import caused_networks
from modspec.training.loop import train
from modspec.training.optimizers import DENSE, AtPace

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
    assert times.pop('adapt_and').eq(0).all()  # which they know
    for t in times.values(): assert ((t % 5 == 0) & (t >= 5)).all()
    assert len({*torch.cat([*times.values()]).tolist()}) > 3


@pytest.mark.parametrize('how', WAYS_TO_ADAPT)
def test_alone_as_stacked_and_left_as_it_is(trained, how):
    before, settings = {name: w.clone() for name, w in trained.weights.items()}, replace(HOW, adapt_how=how)
    stacked, alone = adaptation(trained, RETINA_DATA, settings), adaptation(trained[1], RETINA_DATA, settings)
    for name, t in stacked.items(): assert (t[1] - alone[name][0]).abs() <= 5
    assert all(torch.equal(w, trained.weights[name]) and not w.requires_grad for name, w in before.items())


# ways to adapt

def test_a_pace_is_a_learning_rate():
    "each network takes the steps that Adam takes alone with its learning rate, bit for bit where the factor is 1"
    first = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    def ten_steps(w, lr, pace):
        w = w.clone().requires_grad_()
        optimizer = AtPace(DENSE['adam']([w], lr, rho=.9), [w], len(w))
        if pace is not None: optimizer.pace = torch.tensor(pace)
        for _ in range(10):
            (w**2).sum().backward()
            optimizer.step()
        return w.detach()
    both = ten_steps(first, .01, [1., .3])
    assert torch.equal(both[0], ten_steps(first[:1], .01, None)[0])
    torch.testing.assert_close(both[1], ten_steps(first[1:], .003, None)[0])


def test_only_the_scaled_have_a_pace_of_their_own(trained):
    size = torch.cat([trained.weights[name].flatten(1) for name in ('W_1', 'W_2', 'W_out')], 1).norm(dim=1)
    expected = sum(norm**2 for norm in glorot_norms(trained.weights).values())**.5 / size
    torch.testing.assert_close(learning_pace(trained, 'scaled'), expected)
    for how in ('plain', 'rescaled', 'readout'): assert learning_pace(trained, how).eq(1).all()


def test_rescaled_layers_have_their_first_norms_and_their_signs(trained):
    made, model = at_first_norms(trained), trained.architecture
    for name, norm in glorot_norms(trained.weights).items():
        torch.testing.assert_close(made.weights[name].flatten(1).norm(dim=1), torch.full((3,), norm))
    def drive(stack): return model.drive(stack.weights, X)
    assert torch.equal(drive(made).sign(), drive(trained).sign())
    last = last_state(model, trained.weights, X)
    classes = [model.readouts(stack.weights, last).argmax(2) for stack in (made, trained)]
    assert torch.equal(*classes)
    silent = replace(trained, weights={name: 0 * w for name, w in trained.weights.items()})
    assert all(w.eq(0).all() for w in at_first_norms(silent).weights.values())


def test_only_the_read_out_learns(trained):
    "what it reaches is what a read-out of the same states reaches: deaf networks reach nothing"
    deaf = replace(trained, weights={name: w * (name != 'W_1') for name, w in trained.weights.items()})
    other = RETINA.goal('or').target(LABELS[:, None]).expand(3, -1)
    how = dict(lr=.01, most=100, how='readout')
    assert steps_to_learn(deaf, X, other, **how).eq(100).all()
    assert (steps_to_learn(trained, X, other, **how) >= steps_to_learn(trained, X, other, lr=.01, most=100)).all()


def test_unknown_ways_are_refused(trained):
    target = RETINA.target(LABELS[:, None]).expand(3, -1)
    with pytest.raises(ValueError, match='how'): steps_to_learn(trained, X, target, lr=.01, most=20, how='fast')
    with pytest.raises(ValueError, match='adapt_how'): replace(HOW, adapt_how='fast')


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


# who adapts faster: times that are lower bounds, ways, units of periods

def adapting_networks(of_way, n=6):
    "Networks of two points, whose steps to all related goals fall with FI by a slope for each way"
    rng, rows = np.random.default_rng(0), []
    for point, seed, (way, slope) in product(('baseline', 'l1_2'), range(n), of_way.items()):
        fi = .4 * (point == 'l1_2') + .1 * seed % .3 + .1 * rng.random()
        about = dict(variation=point + way, seed=seed, accuracy=1., fi=fi, weight_norm=1 + rng.random(),
                     saturated=rng.random(), density=rng.random())
        rows.append(about | {name: np.exp(4 + slope * fi * (not name.endswith('unrelated')) + .01 * rng.normal()) - 5
                             for name in TIMES})
    return pd.DataFrame(rows).set_index(['variation', 'seed'])


def test_shares_fall_from_one_and_never_below_the_censored():
    steps, shares = not_yet([30, 10, 600, 600, 10])
    assert steps.tolist() == [0, 10, 30, 600] and shares.tolist() == pytest.approx([1, .6, .4, .4])
    assert not_yet([600, 600])[1].tolist() == [1, 1] and not_yet([5, 5])[1].tolist() == [1, 0, 0]
    assert not_yet([0, 0, 40], 40)[1].tolist() == pytest.approx([1, 1 / 3, 1 / 3])


def test_a_median_is_a_time_that_half_have_reached_or_nothing():
    assert median_steps([10, 20, 30]) == 20 and median_steps([0, 0, 0]) == 0
    assert median_steps([10, 20, 600, 600]) == 20  # half of them
    assert np.isnan(median_steps([10, 600, 600])) and np.isnan(median_steps([600]))


def test_ratios_are_of_networks_that_know_their_goal():
    networks, begun = adapting_networks({'': 0.}), adapting_networks({'': 0.})
    networks[TIMES], begun[TIMES] = 200., 100.
    networks.loc[('l1_2', 0), ['accuracy', TIMES[0]]] = .9, 5.
    networks.loc['baseline', TIMES[1]] = 600.
    found = ratio_to_scratch(networks, begun, ['baseline', 'l1_2'])
    assert (found.loc['l1_2'] == 2).all() and found.loc['baseline'].isna().tolist() == [False, True] + 4 * [False]


def test_each_way_has_slopes_of_its_own():
    ways = {'': -1., '_scaled': -.5, '_rescaled': 0.}
    networks = adapting_networks(ways)
    by_way = networks_by_way(networks)
    assert [*by_way] == ['plain', 'scaled', 'rescaled']
    assert all({*rows.index.get_level_values('variation')} == {'baseline', 'l1_2'} for rows in by_way.values())
    found = slopes_by_way(networks)['related goals']
    for way, slope in zip(by_way, ways.values()): assert abs(found[way].mean - slope) < .2
    with pytest.raises(Undecidable, match='needs two ways'): slopes_by_way(adapting_networks({'': 0.}))


def test_periods_need_the_steps_to_and():
    table = pd.DataFrame([dict(variation='baseline', trained=known, measure=name, value=value, switching=rate)
                          for known, name, value in ((True, 'adapt_or', 50.), (False, 'adapt_and', 100.),
                                                     (False, 'adapt_or', 7.), (True, 'adapt_and', 0.))
                          for rate in (0., .1, .002)])
    found = periods_in_units(table)
    assert found.index.tolist() == [10, 500] and found.to_numpy().tolist() == [[.2, .1], [10., 5.]]
    with pytest.raises(Undecidable, match='needs adapt_and'): periods_in_units(table[table['measure'] == 'adapt_or'])
