"""One contract for every measure that is registered, and oracles built by hand"""
import inspect
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import hadamard
from test_network import lively

from modspec.analysis.specialization import normalized_difference
from modspec.core.data import Dataset, Digits
from modspec.core.registry import entries
from modspec.measures import bottleneck, links, weight_mask
from modspec.networks.recurrent import Recurrent, directions, init_stack
from modspec.networks.stack import Stack
from modspec.training import loop
from modspec.training.parameters import SPARSE, Parameters, applying

ENTRIES = applying('measure', (*SPARSE, 'few_images'))  # all that networks of sub-networks can have
MEASURES = {name: entry.load() for name, entry in ENTRIES.items()}
LEGAL = {value: about.get('range', [0, torch.inf]) for entry in ENTRIES.values()
         for value, about in entry.about['values'].items()}
AXES = {value: about['axes'] for entry in ENTRIES.values() for value, about in entry.about['values'].items()}
UNREAD = dict(bottleneck=['W_br', 'b_br'], correlation=['W_hr', 'b_hr'], states=['W_hr', 'b_hr'],
              recurrent_modules=['b_hr'],
              links=['W_ih', 'b_ih', 'b_hh', 'W_hr', 'b_hr'])  # weights that a measure never looks at
PARAMETERS = Parameters(n_pairs=1600, batch_size=16, mask_batch_size=32, mask_fraction=.3, module_pairs=60)
SEARCHED = 'q_recurrent', 'clusters_recurrent', 'split_ecs', 'ecs_updown'  # by a search, which begins somewhere
every_measure = pytest.mark.parametrize('name', MEASURES)


def one_hot_digits(per_class):
    "Images of ten pixels, of which the one of the digit is lit"
    labels = torch.arange(10).repeat_interleave(per_class)
    return Digits((255 * F.one_hot(labels, 10)).to(torch.uint8), labels)


def noisy_digits(per_class, seed):
    "Images of twelve pixels that show their digit through noise"
    digits = one_hot_digits(per_class)
    noise = torch.randint(0, 120, (len(digits), 12), generator=torch.Generator().manual_seed(seed))
    return Digits((noise + F.pad(digits.images // 2, (0, 2))).to(torch.uint8), digits.labels)


DATA = Dataset('made up', noisy_digits(30, 0), noisy_digits(20, 1))


def networks(name, S=2):
    "Three random networks that have what the measure needs; the first and the third share a seed"
    B = 4 * ('bottleneck' in ENTRIES[name].about['needs'])
    stack = lively(Recurrent(12, n_hidden=10, n_subnetworks=S, n_bottleneck=B), [3, 4, 3], [.01, .1, 1.], gain=5.)
    if name == 'links': stack.weights['W_sparse'][1] = stack.weights['W_sparse'][1].roll(1, -1)  # they have moved
    return stack


def changed(stack, weights):
    return Stack(stack.architecture, weights, stack.seeds, stack.n_connections)


def home(name):
    "The module that a measure stands in"
    return sys.modules[MEASURES[name].__module__]


def exact(values):
    "What does not hang on where a search for the best division began"
    return {name: array for name, array in values.items() if not name.startswith(SEARCHED)}


def assert_close(first, second, tolerance):
    assert list(first) == list(second)
    for metric in first:
        torch.testing.assert_close(first[metric], second[metric], rtol=0, atol=tolerance)


# the contract

@pytest.mark.provokes('metric contract')
@every_measure
@pytest.mark.parametrize('S', [2, 3])
def test_values(name, S):
    "The axes that each value declares, and each in its range"
    values, size = MEASURES[name](networks(name, S), DATA, PARAMETERS), dict(subnetwork=S, subtask=S, time=5)
    assert {*values} == {*ENTRIES[name].about['values']}
    for value, array in values.items():
        low, high = LEGAL[value]
        assert array.shape == (3, *(size[axis] for axis in AXES[value])), value
        assert array.is_floating_point() and not array.requires_grad
        assert (array >= low - 1e-9).all() and (array <= high + 1e-9).all()
        assert len(array.flatten().unique()) > 1  # something was measured
    for share in ('weight_mask', 'decision_share'):
        if share in values: torch.testing.assert_close(values[share].sum(1), torch.ones_like(values[share].sum(1)))


@every_measure
def test_signature(name):
    "What whoever measures relies on"
    parameters = inspect.signature(MEASURES[name]).parameters
    assert list(parameters) == ['stack', 'dataset', 'parameters', 'bar'] and parameters['bar'].default is None


@pytest.mark.provokes('metric contract')
@every_measure
def test_inputs_stay_as_they_are(name):
    stack, fresh = networks(name), networks(name)
    data = [part.clone() for digits in (DATA.train, DATA.test) for part in (digits.images, digits.labels)]
    MEASURES[name](stack, DATA, PARAMETERS)
    for key, w in stack.weights.items():
        assert torch.equal(w, fresh.weights[key]) and not w.requires_grad and w.grad is None
    now = [part for digits in (DATA.train, DATA.test) for part in (digits.images, digits.labels)]
    assert all(map(torch.equal, data, now))


@pytest.mark.provokes('metric contract')
@pytest.mark.parametrize(('name', 'poisoned'), [(name, key) for name in MEASURES for key in networks(name).weights
                                                if key not in UNREAD.get(name, [])])
def test_weights_that_are_nan_are_refused(name, poisoned):
    "A single one, in one network of three"
    stack = networks(name)
    w = stack.weights[poisoned][1]
    w[tuple(w.nonzero()[0])] = torch.nan
    with pytest.raises((ValueError, ArithmeticError), match='network 1'): MEASURES[name](stack, DATA, PARAMETERS)


@pytest.mark.provokes('metric contract')
@every_measure
def test_same_seeds_same_bits(name):
    "Whatever the state of the global generator, which is left as it was"
    stack = networks(name)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = MEASURES[name](stack, DATA, PARAMETERS)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert_close(first, MEASURES[name](stack, DATA, PARAMETERS), 0)


@pytest.mark.provokes('metric contract')
@every_measure
def test_alone_as_in_the_stack(name):
    "Within 0.005: batched products may add in another order, which can turn an answer or a kept weight"
    stack = networks(name)
    stacked = MEASURES[name](stack, DATA, PARAMETERS)
    for k in range(3):
        alone = MEASURES[name](stack[k], DATA, PARAMETERS)
        assert_close(alone, {metric: array[k:k + 1] for metric, array in stacked.items()}, .005)


def reordered(weights, orders):
    "The same networks with the units of sub-network n in another order"
    new = {}
    for key, w in weights.items():
        if key == 'W_sparse':
            parts = [w[:, d][:, orders[n]][..., orders[m]] for d, (n, m) in enumerate(directions(len(orders)))]
        else:
            parts = [w[:, n] for n in range(len(orders))]
            if key.endswith(('_ih', '_hh')): parts = [part[:, order] for part, order in zip(parts, orders)]
            if key in ('W_hh', 'W_hr', 'W_hb'): parts = [part[..., order] for part, order in zip(parts, orders)]
        new[key] = torch.stack(parts, 1)
    return new


def carry_scores(monkeypatch, rearrange, undo):
    "Let what is drawn by position follow the weights of rearranged networks: random scores of masks, and first links"
    first = links.first_links
    def rearranged_first(*how): return rearrange({'W_sparse': first(*how)})['W_sparse']

    monkeypatch.setattr(links, 'first_links', rearranged_first)
    flatten, unflatten = weight_mask.flatten_scored, weight_mask.unflatten_scored
    monkeypatch.setattr(weight_mask, 'flatten_scored', lambda weights, *how: flatten(undo(weights), *how))
    monkeypatch.setattr(weight_mask, 'unflatten_scored',
                        lambda flat, weights, *how: rearrange(unflatten(flat, weights, *how)))


@pytest.mark.provokes('metric contract')
@every_measure
@pytest.mark.parametrize('S', [2, 3])
def test_order_of_units_does_not_matter(monkeypatch, name, S):
    stack = networks(name, S)
    orders = [torch.randperm(10, generator=torch.Generator().manual_seed(n)) for n in range(S)]
    before = exact(MEASURES[name](stack, DATA, PARAMETERS))
    shuffled = changed(stack, reordered(stack.weights, orders))
    back = [order.argsort() for order in orders]
    carry_scores(monkeypatch, lambda weights: reordered(weights, orders), lambda weights: reordered(weights, back))
    assert_close(exact(MEASURES[name](shuffled, DATA, PARAMETERS)), before, .005)


@pytest.mark.provokes('metric contract')
@every_measure
def test_exchanged_sub_networks(monkeypatch, name):
    """Sub-networks that exchange places and images, while sub-tasks keep their names, exchange their values; the start
    of scores and read-outs, which is drawn by position, goes with them"""
    stack = networks(name)
    before = exact(MEASURES[name](stack, DATA, PARAMETERS))
    def exchange(weights): return {key: w.flip(1) for key, w in weights.items()}
    carry_scores(monkeypatch, exchange, exchange)
    retrain = bottleneck.retrain_readouts
    def retrain_exchanged(states, *args, **options):
        return [w.flip(1) for w in retrain(states.flip(1), *args, **options)]

    monkeypatch.setattr(bottleneck, 'retrain_readouts', retrain_exchanged)
    gather = loop.gather_batch
    def gather_exchanged(digits, index, precision):
        x, shown = gather(digits, index, precision)
        return x.flip(1), shown
    for module in {loop, home(name)}:  # states are gathered in one of them, or in both
        if hasattr(module, 'gather_batch'): monkeypatch.setattr(module, 'gather_batch', gather_exchanged)
    after = exact(MEASURES[name](changed(stack, exchange(stack.weights)), DATA, PARAMETERS))
    # shares of a mask are counted where its scores are, which have gone with the weights
    gone = [metric for metric, axes in AXES.items() if 'subnetwork' not in axes] + ['weight_mask']
    flipped = {metric: array if metric in gone else array.flip(1 + AXES[metric].index('subnetwork'))
               for metric, array in after.items()}
    assert_close(flipped, before, .005)


def with_dead_subnetwork(name):
    "Networks whose second sub-network neither sees, nor answers, nor hears, nor is heard"
    stack = networks(name)
    dead = {key: w.clone() for key, w in stack.weights.items()}
    for key, w in dead.items():
        if key == 'W_sparse': w.zero_()
        else: w[:, 1] = 0
    return changed(stack, dead)


@pytest.mark.provokes('metric contract')
@every_measure
def test_dead_sub_network(name):
    "It holds nothing, or has no correlation, which is an error that names it; the living one is measured"
    stack = with_dead_subnetwork(name)
    if name == 'correlation':
        with pytest.raises(ValueError, match='network 0, sub-network 1: a state that is the same in all units'):
            MEASURES[name](stack, DATA, PARAMETERS)
        return
    values = MEASURES[name](stack, DATA, PARAMETERS)
    for metric, array in values.items():
        low, high = LEGAL[metric]
        assert array.isfinite().all() and (array >= low).all() and (array <= high).all()
    if name == 'bottleneck':  # the most frequent digit can still be guessed
        assert (values['bottleneck'][:, 1] < .2).all()


@pytest.mark.provokes('metric contract')
@pytest.mark.parametrize('name', [name for name in MEASURES if name != 'links'])  # which looks at no digit
def test_single_class(name):
    "Digits of one class make no admissible pair: an error that says so, and no endless search"
    def threes(digits): return Digits(digits.images[digits.labels == 3], digits.labels[digits.labels == 3])
    with pytest.raises(ValueError, match='no admissible pair can be made of digits .3.; more classes are needed'):
        MEASURES[name](networks(name), Dataset('threes', threes(DATA.train), threes(DATA.test)), PARAMETERS)


def changed_digits(**changes):
    "The made-up data with other labels or images in both parts"
    def new(digits): return replace(digits, **{part: change(getattr(digits, part)) for part, change in changes.items()})
    return Dataset('other', new(DATA.train), new(DATA.test))


UNUSABLE = {  # what a measure is given in place of one of its arguments, and which of them the error names
    'networks': (0, 'stack', [None, 3, torch.zeros(2, 3), DATA]),
    'data': (1, 'dataset|images', [3, DATA.test, DATA.test.images, changed_digits(images=lambda shown: shown[:, 1:])]),
    'labels': (1, "of task 'parity' must be in 0..9", [changed_digits(labels=lambda labels: labels + 1),
                                                     changed_digits(labels=lambda labels: labels + 250)])}


@pytest.mark.provokes('metric contract')
@every_measure
@pytest.mark.parametrize('what', UNUSABLE)
def test_what_cannot_be_used_is_refused(name, what):
    "before anything is computed, by the name of the argument, and nothing is said by PyTorch"
    place, named, wrong = UNUSABLE[what]
    for instead in wrong:
        given = [networks(name), DATA, PARAMETERS]
        given[place] = instead
        with pytest.raises(ValueError, match=named): MEASURES[name](*given)


@pytest.mark.provokes('metric contract')
@every_measure
@pytest.mark.parametrize(('place', 'named'), [(1, 'dataset must be a Dataset'), (2, 'parameters must be settings')])
def test_none_at_all(name, place, named):
    "is refused, unless the measure does not look at it: then its values are the same"
    given = [networks(name), DATA, PARAMETERS]
    given[place] = None
    try: values = MEASURES[name](*given)
    except ValueError as error: assert str(error).startswith(named), error
    else: assert_close(values, MEASURES[name](networks(name), DATA, PARAMETERS), 0)


@pytest.mark.provokes('metric contract')
@every_measure
def test_what_are_no_settings(name):
    "unless none are read"
    for instead in ({}, 3, 'paper', Parameters, DATA):
        try: values = MEASURES[name](networks(name), DATA, instead)
        except ValueError as error: assert str(error).startswith('parameters must be settings with'), error
        else: assert {*values} == {*ENTRIES[name].about['values']}


@pytest.mark.provokes('metric contract')
@pytest.mark.parametrize('name', entries('measure'))
def test_every_registered_measure_looks_first(name):
    "also those of networks that this suite does not make"
    measure = entries('measure')[name].load()
    assert measure.__wrapped__
    with pytest.raises(ValueError, match='^stack must be a Stack'): measure(None, DATA, PARAMETERS)
    with pytest.raises(ValueError, match='^stack must be a Stack'): measure(DATA, None, None)


@every_measure
def test_progress(name):
    "The bar advances as the registry says"
    class Bar:
        n = 0
        def update(self, n): self.n += n
    bar, about = Bar(), ENTRIES[name].about
    MEASURES[name](networks(name), DATA, PARAMETERS, bar=bar)
    assert bar.n == (ENTRIES[name].load('steps')(DATA, PARAMETERS) if 'steps' in about else 0)


# oracles: networks built by hand

ORACLES = 'bottleneck', 'weight_mask', 'correlation'
ONE_HOT = Dataset('one-hot digits', one_hot_digits(40), one_hot_digits(20))
CODE, HALF_CODE = (torch.tensor(hadamard(n)[:, 1:11]).float() for n in (32, 16))  # one orthogonal pattern per digit


def hand_made(kind, squeezed):
    """Two networks (that differ in their seed) whose units show, at the second step, a pattern of their own digit
    ('specialized'), of the other's ('anti-specialized'), or half and half ('unspecialized')"""
    nothing = torch.zeros(16, 10)
    own, other = {'specialized': (CODE, 0 * CODE), 'anti-specialized': (0 * CODE, CODE),
                  'unspecialized': (torch.cat([HALF_CODE, nothing]), torch.cat([nothing, HALF_CODE]))}[kind]
    seen = .01 * CODE if kind == 'anti-specialized' else own  # too faint to show, but enough to be sent on
    random = init_stack(Recurrent(10, n_hidden=32, n_bottleneck=10 * squeezed, n_steps=2), [0, 1], 1.)
    weights = {key: torch.zeros_like(w) for key, w in random.weights.items()}
    weights['W_ih'] += 3 * seen
    weights['W_sparse'] += 3 * other @ torch.linalg.pinv((3 * seen).tanh())  # from what the sender shows to the pattern
    weights['W_hb' if squeezed else 'W_hr'] += (own + other).T / (32 if squeezed else 2)
    return changed(random, weights)


@pytest.mark.provokes('oracles')
@pytest.mark.parametrize(('kind', 'expected'), [('specialized', 1), ('anti-specialized', -1), ('unspecialized', 0)])
def test_oracles(kind, expected):
    """What the paper's measure must say. A perfect network reaches 7/9 where the other digit is known to 1/8:
    the digit that is there leaves eight for the other one"""
    parameters = Parameters(n_pairs=6400, batch_size=16, mask_batch_size=32)
    for name in ORACLES:
        values = MEASURES[name](hand_made(kind, name == 'bottleneck'), ONE_HOT, parameters)
        for key in ('bottleneck', 'weight_mask', 'correlation', 'cka'):
            if key not in values: continue
            spec = normalized_difference(values[key].numpy())
            if key == 'weight_mask' and not expected: assert abs(spec.mean()) < .4  # either sub-network will do
            elif key in ('bottleneck', 'correlation'): assert abs(spec - expected * 7 / 9).max() < .05, key
            else: assert abs(spec - expected).max() < .05, key
        if name == 'weight_mask': assert (values['weight_mask_accuracy'] > .99).all()
        if name == 'bottleneck' and expected:
            M = values['bottleneck'] if expected == 1 else values['bottleneck'].flip(2)
            assert (M.diagonal(dim1=1, dim2=2) > .99).all()


@pytest.mark.provokes('oracles', rounds=12)
@pytest.mark.parametrize(('kind', 'expected'), [('specialized', 1), ('anti-specialized', -1), ('unspecialized', 0)])
def test_oracles_without_the_leak(kind, expected):
    """All three give 1, -1 and 0 within 0.05 once the 1/8 is taken off by which a digit tells of the other one; masks
    of equal sub-networks are all in one or the other as luck has it, their mean over twelve draws 0 within 0.3"""
    parameters, found = Parameters(n_pairs=6400, batch_size=16, mask_batch_size=32), {}
    for name in ORACLES:
        one = hand_made(kind, name == 'bottleneck')
        weights = {key: w[:1].repeat(12, *[1] * (w.ndim - 1)) for key, w in one.weights.items()}
        same = Stack(one.architecture, weights, tuple(range(12)), one.n_connections[:1] * 12)
        found[name] = normalized_difference(M := MEASURES[name](same, ONE_HOT, parameters)[name].double().numpy())
        if name != 'weight_mask': found[name] = normalized_difference((M - 1 / 8) / (1 - 1 / 8))
    for name in ('bottleneck', 'correlation'): assert abs(found[name] - expected).max() < .05, name
    assert abs(found['weight_mask'].mean() - expected) < (.05 if expected else .3)
