"""One contract for every cause, the package's and one of a user's: strength 0 is no cause, alone as stacked"""
import sys
from dataclasses import replace

import pytest
import torch
from tqdm import tqdm

from modspec.causes.cause import dense_matrices
from modspec.core import registry
from modspec.core.data import load_dataset
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.studies.causes.config import CAUSES as STUDY
from modspec.training.loop import acting, train
from modspec.training.parameters import SPARSE, applying, make_parameters

RIDGE = '''"An L2 penalty on the recurrent weights"
from modspec.causes.cause import Cause

REGISTERED = [dict(
    kind='cause', name='ridge', object='Ridge', label='L2', strength='ridge_strength', needs=['subnetworks'],
    settings={'ridge_strength': dict(default=0.0, least=0, most=1e9)},
)]

class Ridge(Cause):
    def penalty(self, weights, h, shown): return self.strength * weights['W_hh'].square().sum((1, 2, 3))
'''
WAYS = {'pruning': [dict(pruning_when='after'), dict(regrowth=True)], 'dropout': [dict(dropout_each_step=True)],
        'connection_cost': [dict(cost_every=4)], 'modular_start': [dict(start_modules=2)],
        'spectral_penalty': [dict(spectral_clusters=1)], 'towers': [dict(towers_rewire=True)],
        'noise': [dict(settle=5)],
        'goals': [dict(switch_to='permuted'), dict(settle=5)]}  # of a cause, beside the default one
OF_LAYERS = {'connection_cost': [dict(cost_places='shuffled', cost_every=4)]}  # that other networks cannot have


@pytest.fixture(scope='module', autouse=True)
def ridge(tmp_path_factory):
    "A cause from a file of a user's own; what there was before is left"
    path = tmp_path_factory.mktemp('plugin') / 'ridge.py'
    path.write_text(RIDGE)
    before = dict(registry.PLUGINS)
    entry, = registry.add_plugin(path)
    yield entry
    registry.PLUGINS.clear()
    registry.PLUGINS.update(before)
    del sys.modules[entry.module]


def cases(kind, offers):
    "Each cause that such networks can have, in each of its ways"
    names = sorted(name for name, entry in applying('cause', offers).items() if 'trains' not in entry.about)
    names += ['ridge'] if 'subnetworks' in offers else []
    more = OF_LAYERS if kind == 'layered' else {}
    return [(kind, name, way) for name in names for way in ({}, *WAYS.get(name, []), *more.get(name, []))]


CASES = cases('recurrent', SPARSE) + cases('layered', STUDY.offers)
every_cause = pytest.mark.parametrize(('kind', 'name', 'way'), CASES, ids=str)


def networks(kind):
    if kind == 'layered': return init_feedforward(FeedForward(8, (6, 4), 2, 'tanh'), [10, 11, 12], start='glorot')
    return init_stack(Recurrent(64, n_hidden=8), [10, 11, 12], [1 / 64, .25, 1.])


def settings(kind, **changes):
    if kind == 'layered': return STUDY.settings(epochs=2, n_pairs=256 * 8, **changes)
    return make_parameters(dict(epochs=2, n_pairs=320, batch_size=32, rewire=False) | changes)


def trained(kind, stack, **changes):
    data = load_dataset('retina' if kind == 'layered' else 'digits')
    with tqdm(disable=True) as bar: return train(stack, data, settings(kind, **changes), bar=bar)


def strength_of(name): return registry.entries('cause')[name].about['strength']


def strong(name):
    "A strength at which the cause is seen: a share or a rate, or what a penalty needs"
    return .25 if name in ('dropout', 'pruning', 'goals', 'towers', 'modular_start', 'noise') else .01


def same(first, second): return all(torch.equal(w, second.weights[key]) for key, w in first.weights.items())


@every_cause
def test_strength_0_changes_nothing(kind, name, way):
    "Bit for bit, whatever else is said of the cause"
    ours, history = trained(kind, networks(kind), **{strength_of(name): 0.}, **way)
    theirs, expected = trained(kind, networks(kind))
    assert same(ours, theirs) and history.equals(expected)


@every_cause
def test_a_strength_for_each_network_of_a_stack(kind, name, way):
    "0 among others is bit for bit no cause; the others change, and what comes in stays as it is"
    stack = networks(kind)
    curve = replace(stack, strengths={strength_of(name): (0., strong(name), strong(name) / 2)})
    ours, plain = trained(kind, curve, **way)[0], trained(kind, networks(kind))[0]
    assert same(ours[0], plain[0]) and not same(ours[1], plain[1]) and not same(ours[2], plain[2])
    assert same(stack, networks(kind))


@every_cause
def test_alone_as_in_the_stack(kind, name, way):
    "Within rounding, which few steps do not enlarge much"
    stack = replace(networks(kind), strengths={strength_of(name): (strong(name), strong(name) / 2, 0.)})
    stacked, _ = trained(kind, stack, **way)
    for k in range(2):
        alone, _ = trained(kind, stack[k], **way)
        for key, w in alone.weights.items():
            torch.testing.assert_close(w, stacked.weights[key][k:k + 1], rtol=0, atol=1e-4, msg=f'{key} of {k}')


@pytest.mark.parametrize(('kind', 'name'), sorted({case[:2] for case in CASES}))
def test_a_strength_is_a_number_that_is_checked(kind, name):
    for bad in ('strong', -1., float('nan'), float('inf')):
        with pytest.raises(ValueError, match=f'{strength_of(name)} must be a number in'):
            settings(kind, **{strength_of(name): bad})


@pytest.mark.parametrize(('name', 'bad'), [('dropout', 1.), ('pruning', 1.), ('switching', 2.), ('cost_places', 'mine'),
                                           ('pruning_when', 'before'), ('settle', -1), ('cost_every', 1.5)])
def test_what_no_cause_can_do_is_refused(name, bad):
    with pytest.raises(ValueError, match=f'{name} must be .*got {bad!r}'): settings('layered', **{name: bad})


def test_a_goal_that_the_task_lacks():
    with pytest.raises(ValueError, match="switch_to must be one of .*got 'parity'"):
        settings('layered', switch_to='parity')
    with pytest.raises(ValueError, match="switching must be 0 with task 'parity_sentence', which lacks a second"):
        settings('recurrent', switching=.1, task='parity_sentence')
    with pytest.raises(ValueError, match="both_goals must be 0 with task 'retina_random', which lacks a second"):
        settings('layered', both_goals=1., task='retina_random')


def test_places_of_inputs_that_have_none():
    with pytest.raises(ValueError, match="'shuffled' is about places of inputs"):
        trained('recurrent', networks('recurrent'), cost_strength=.1, cost_places='shuffled')


def test_only_causes_with_a_strength_are_made():
    stack = networks('recurrent')
    assert acting(stack, make_parameters({}), 10) == []
    made, = acting(stack, make_parameters({'ridge_strength': 2.}), 10)
    price = made.penalty(stack.weights, None, None)
    torch.testing.assert_close(price, 2 * stack.weights['W_hh'].square().sum((1, 2, 3)))


@pytest.mark.parametrize('name', ['ridge_strength', 'l1_strength', 'l2_strength'])
def test_a_penalty_makes_weights_small(name):
    weak, dear = (trained('recurrent', networks('recurrent'), **{name: s})[0] for s in (0., .1))
    assert (dear.weights['W_hh'].square().mean((1, 2, 3)) < .5 * weak.weights['W_hh'].square().mean((1, 2, 3))).all()


@pytest.mark.parametrize('way', [{}, dict(pruning_when='after')])
@pytest.mark.parametrize('share', [.3, .5, .7])
def test_pruning_takes_away_what_it_says(way, share):
    "B13: to the nearest weight, in every matrix of every network, and only what is smallest goes"
    ours, _ = trained('layered', networks('layered'), pruning=share, **way)
    for w in dense_matrices(ours.weights).values():
        assert ((w == 0).flatten(1).sum(1) == round(share * w[0].numel())).all()


def test_weights_may_grow_again():
    ours, _ = trained('layered', networks('layered'), pruning=.5, pruning_when='after', regrowth=True)
    assert all(w.all() for w in dense_matrices(ours.weights).values())


def test_dropout_keeps_the_mean_and_is_gone_after_training():
    "B14"
    stack = networks('layered')
    made, = acting(stack, settings('layered', dropout=.25), 10)
    gates = torch.cat([made.gates(500)[0] for _ in range(20)], -1)
    torch.testing.assert_close(gates.mean(-1), torch.ones(3, 1, 6), rtol=0, atol=.03)
    assert made.gates(4)[1].shape == (3, 1, 4, 4)


@pytest.mark.parametrize('kind', ['recurrent', 'layered'])
@pytest.mark.parametrize('way', [dict(dropout=.25), dict(l1_strength=1e-3), dict(pruning=.5)], ids=str)
def test_causes_act_in_either_precision(kind, way):
    "Networks whose states are bfloat16 train under a cause, and stay finite"
    stack = networks(kind)
    half = replace(stack, architecture=replace(stack.architecture, precision='bf16'))
    ours, _ = trained(kind, half, precision='bf16', **way)
    assert all(w.isfinite().all() for w in ours.weights.values()) and not same(ours, half)
