"""One contract for every cause, the package's and one of a user's: strength 0 is no cause, alone as stacked"""
import sys

import pytest
import torch
from tqdm import tqdm

from modspec.core import registry
from modspec.core.data import load_dataset
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.training.loop import penalties, train
from modspec.training.parameters import SPARSE, applying, make_parameters

DIGITS = load_dataset('digits')
SHORT = dict(epochs=2, n_pairs=320, batch_size=32)
EXEMPT = 'sparse_links',  # the sparsity is part of the network
RIDGE = '''"An L2 penalty on the recurrent weights"
REGISTERED = [dict(
    kind='cause', name='ridge', object='ridge', label='L2', penalty='ridge', strength='ridge_strength',
    settings={'ridge_strength': dict(default=0.0, least=0, most=1e9)},
)]

def ridge(weights, parameters):
    return parameters.ridge_strength * weights['W_hh'].square().sum((1, 2, 3))
'''


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


CAUSES = sorted({*applying('cause', SPARSE)} - {*EXEMPT}) + ['ridge']
every_cause = pytest.mark.parametrize('name', CAUSES)


def networks(): return init_stack(Recurrent(64, n_hidden=8), [10, 11, 12], [1 / 64, .25, 1.])


def trained(stack, **changes):
    with tqdm(disable=True) as bar: return train(stack, DIGITS, make_parameters(SHORT | changes), bar=bar)


def strong(name):
    "A setting that makes the cause strong enough to be seen"
    about = registry.entries('cause')[name].about
    return {about['strength']: about['settings'][about['strength']].get('most', 1.) and .01}


def same(first, second):
    return all(torch.equal(w, second.weights[key]) for key, w in first.weights.items())


@every_cause
def test_strength_0_changes_nothing(name):
    "Bit for bit"
    strength = registry.entries('cause')[name].about['strength']
    ours, history = trained(networks(), **{strength: 0.})
    theirs, expected = trained(networks())
    assert same(ours, theirs) and history.equals(expected)


@every_cause
def test_strength_changes_something(name):
    assert not same(trained(networks(), **strong(name))[0], trained(networks())[0])


@every_cause
def test_alone_as_in_the_stack(name):
    "Within rounding, which few steps do not enlarge much"
    stacked, _ = trained(networks(), rewire=False, **strong(name))
    for k in range(3):
        alone, _ = trained(networks()[k], rewire=False, **strong(name))
        for key, w in alone.weights.items():
            torch.testing.assert_close(w, stacked.weights[key][k:k + 1], rtol=0, atol=1e-4, msg=f'{key} of {k}')


@every_cause
def test_what_comes_in_stays_as_it_is(name):
    stack = networks()
    trained(stack, **strong(name))
    assert same(stack, networks())


@every_cause
def test_a_strength_is_a_number_that_is_checked(name):
    strength = registry.entries('cause')[name].about['strength']
    for bad in ('strong', -1., float('nan')):
        with pytest.raises(ValueError, match=f'{strength} must be a number in'): make_parameters({strength: bad})


def test_a_penalty_is_added_only_where_it_has_a_strength():
    weights = networks().weights
    assert penalties(make_parameters({})) == []
    penalty, = penalties(make_parameters({'ridge_strength': 2.}))
    torch.testing.assert_close(penalty(weights), 2 * weights['W_hh'].square().sum((1, 2, 3)))


def test_a_penalty_makes_weights_small():
    weak, strong = (trained(networks(), ridge_strength=s)[0].weights['W_hh'].square().mean((1, 2, 3)) for s in (0., .1))
    assert (strong < .5 * weak).all()
