"""Whatever cannot be used is refused before any work, with the argument, what came and what is legal"""
from dataclasses import replace

import numpy as np
import pytest
import torch

from modspec.core.data import load_dataset
from modspec.core.registry import entries
from modspec.core.tasks import Task, parity_target
from modspec.measures.performance import evaluate
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.training import arguments, loop
from modspec.training.arguments import check_answers, check_asked, check_pairs, checked, example_labels
from modspec.training.loop import NonFiniteLoss, train
from modspec.training.parameters import LayeredTraining, Parameters, Training

DIGITS = load_dataset('digits')
MODEL = Recurrent(64, n_hidden=8)
SHORT = Parameters(epochs=1, n_pairs=32, batch_size=16)


def stack(model=MODEL): return init_stack(model, [0, 1], .1)


@pytest.fixture
def a_task(monkeypatch):
    "Let any name be that of a task"
    def enter(task): monkeypatch.setattr(arguments, 'task_named', lambda name: task)
    return enter


@pytest.fixture
def nothing_begins(monkeypatch):
    "Training that must not take a step"
    monkeypatch.setattr(loop, 'train_by_epoch', lambda *_, **__: pytest.fail('training began'))


NO_STACK = None, 3, 'networks', torch.zeros(2, 8), [stack()], Recurrent, DIGITS, stack().weights, np.ones(3)
NO_DATA = None, 'digits', DIGITS.train, DIGITS.train.images, (DIGITS.train, DIGITS.test), load_dataset, np.ones((3, 64))
NO_SETTINGS = None, {}, dict(epochs=1), 'paper', torch.ones(3), stack(), Training, 5


@pytest.mark.parametrize('what', NO_STACK, ids=type)
def test_what_are_no_networks(nothing_begins, what):
    for call in (lambda: train(what, DIGITS, SHORT), lambda: evaluate(what, DIGITS.test)):
        with pytest.raises(ValueError, match=r'^stack must be a Stack, such as init_stack\(.*; got '): call()


@pytest.mark.parametrize('what', NO_DATA, ids=type)
def test_what_are_no_data(nothing_begins, what):
    with pytest.raises(ValueError, match=r'^dataset must be a Dataset, such as load_dataset\(.*; got '):
        train(stack(), what, SHORT)


@pytest.mark.parametrize('what', [None, 3, DIGITS, DIGITS.test.images, np.ones((3, 64))], ids=type)
def test_what_are_no_digits(what):
    with pytest.raises(ValueError, match=r'^digits must be a Digits, such as data.test; got '): evaluate(stack(), what)


@pytest.mark.parametrize('what', NO_SETTINGS, ids=type)
def test_what_are_no_settings(nothing_begins, what):
    with pytest.raises(ValueError, match=r'^parameters must be settings with .*, such as Parameters\(.*; got '):
        train(stack(), DIGITS, what)


@pytest.mark.parametrize('model', [Recurrent(49, n_hidden=8), Recurrent(65, n_hidden=8)])
def test_images_of_another_size(nothing_begins, model):
    message = rf'images have 64 pixels, but the networks look at {model.n_pixels}'
    for call in (lambda: train(stack(model), DIGITS, SHORT), lambda: evaluate(stack(model), DIGITS.test)):
        with pytest.raises(ValueError, match=message): call()


def test_another_device(nothing_begins):
    there = replace(stack(), weights={name: w.to('meta') for name, w in stack().weights.items()})
    with pytest.raises(ValueError, match='images are on cpu, but the networks on meta'): train(there, DIGITS, SHORT)


@pytest.mark.parametrize('more', [1, 7, 246])
def test_labels_that_are_no_answers(nothing_begins, more):
    "In either part of the data"
    def shifted(digits): return replace(digits, labels=digits.labels + more)
    wrong = replace(DIGITS, train=shifted(DIGITS.train))
    message = rf"the answers of task 'parity' must be in 0..9, the classes of .*, got {more} to {9 + more} from"
    with pytest.raises(ValueError, match=message): train(stack(), wrong, SHORT)
    with pytest.raises(ValueError, match=message): evaluate(stack(), shifted(DIGITS.test))


def test_fewer_classes_than_answers():
    few = init_feedforward(FeedForward(64, (8,), n_classes=4), [0])
    with pytest.raises(ValueError, match=r"answers of task 'digit' must be in 0..3.* got 0 to 9"):
        train(few, DIGITS, LayeredTraining())


TARGETS = {'too many': lambda shown: parity_target(shown) + 1, 'negative': lambda shown: parity_target(shown) - 1,
           'fractions': lambda shown: parity_target(shown).float(), 'truth values': lambda shown: shown[..., 0] > 4,
           'bytes': lambda shown: shown[..., 0].byte(), 'a list': lambda shown: shown[..., 0].tolist(),
           'an array': lambda shown: shown[..., 0].numpy(), 'none': lambda shown: None,
           'all of the labels': lambda shown: shown, 'a single answer': lambda shown: shown[0, 0],
           'too few': lambda shown: shown[1:, 0]}


@pytest.mark.parametrize('target', TARGETS)
def test_tasks_whose_answers_cannot_be_given(nothing_begins, a_task, target):
    a_task(Task(TARGETS[target]))
    message = "the answers of task 'parity' must be (in 0..9|a tensor of int64)"
    with pytest.raises(ValueError, match=message): train(stack(), DIGITS, SHORT)
    with pytest.raises(ValueError, match=message): evaluate(stack(), DIGITS.test)


@pytest.mark.parametrize('subtasks', [lambda shown: shown + 1, lambda shown: shown.float(), lambda shown: shown[..., 0],
                                      lambda shown: None, lambda shown: shown[1:]])
def test_sub_tasks_whose_answers_cannot_be_given(a_task, subtasks):
    "are refused where somebody asks for them"
    a_task(Task(parity_target, subtasks))
    check_asked(MODEL, DIGITS.train, 'parity')
    with pytest.raises(ValueError, match="the sub-tasks of task 'parity' must be"):
        check_asked(MODEL, DIGITS.train, 'parity', subtasks=True)


def test_unknown_task(nothing_begins):
    with pytest.raises(ValueError, match="task must be one of .*, got 'sum'"):
        evaluate(stack(), DIGITS.test, task='sum')


@pytest.mark.parametrize('pairs', [[[1], [2]], torch.ones(2), torch.ones(2, 3), torch.ones(3, 2, dtype=torch.int64),
                                   torch.ones(2, 0, dtype=torch.int64), torch.ones(2, 2, dtype=torch.bool),
                                   np.ones((2, 3))])
def test_pairs_that_are_none(pairs):
    with pytest.raises(ValueError, match=r'^pairs must be a tensor of int64 and shape \(2, pairs\), got '):
        evaluate(stack(), DIGITS.test, pairs)


@pytest.mark.parametrize('index', [-1, 360, 10**9])
def test_pairs_of_images_that_there_are_not(index):
    with pytest.raises(ValueError, match=rf'^pairs must name images 0..359, got {min(index, 5)} to {max(index, 5)}'):
        evaluate(stack(), DIGITS.test, torch.tensor([[index], [5]]))


def test_legal_corners():
    "Nothing legal is refused: one pair, one example, every registered task on data that fit it"
    check_pairs(torch.tensor([[0], [359]]), DIGITS.test, 2)
    check_answers('answers', torch.zeros(0, dtype=torch.int64), (0,), 2, 'no labels')
    for name, task in entries('task').items():
        data = load_dataset('retina' if task.about.get('shows') == 'patterns' else 'digits')
        model = FeedForward(data.n_pixels, n_classes=task.about['answers']) if task.load().n_images else MODEL
        check_asked(model, data.train, name, subtasks=True)


def test_looking_changes_nothing():
    "Neither the examples nor the global generator"
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = example_labels(DIGITS.train, entries('task')['parity'].load(), 2)
    assert torch.equal(first, example_labels(DIGITS.train, entries('task')['parity'].load(), 2)) and len(first) > 500
    assert torch.equal(before, torch.get_rng_state())


def test_a_first_loss_is_not_blamed_on_the_rates():
    poisoned, later = stack(), torch.tensor([[.5], [torch.nan]])
    poisoned.weights['b_hr'][1] = torch.nan
    with pytest.raises(NonFiniteLoss, match='in epoch 1, step 1; look at its untrained weights'):
        train(poisoned, DIGITS, SHORT)
    with pytest.raises(NonFiniteLoss, match='in epoch 1, step 2; lower the learning rates'):
        loop.check_finite(later, [0], 1)


# the decorator

REGISTERED = [dict(kind='measure', name='lit', object='lit', needs=['subnetworks'],
                   settings=dict(lit_share=dict(default=.5, least=0, most=1)), values=dict(lit=dict(axes=[])))]


@checked
@torch.no_grad()
def lit(stack, dataset, parameters, *, bar=None):
    "A measure of one's own"
    share = (dataset.test.images > 255 * parameters.lit_share).float().mean() * getattr(parameters, 'lr')  # noqa: B009
    return dict(lit=share.expand(len(stack)))


def test_a_measure_of_ones_own():
    settings = replace(SHORT)
    object.__setattr__(settings, 'lit_share', .5)
    assert lit.__doc__ == "A measure of one's own" and len(lit(stack(), DIGITS, settings)['lit']) == 2
    assert lit(stack=stack(), dataset=DIGITS, parameters=settings, bar=None)['lit'].isfinite().all()
    with pytest.raises(ValueError, match='parameters must be settings with lit_share'): lit(stack(), DIGITS, SHORT)
    with pytest.raises(ValueError, match='lit needs networks with sub-networks, got feedforward networks with'):
        lit(init_feedforward(FeedForward(64), [0]), DIGITS, settings)
    with pytest.raises(TypeError, match='missing a required argument'): lit(stack(), DIGITS)


def test_errors_of_a_measure_itself_stay():
    @checked
    def wrong(stack, dataset, parameters, *, bar=None): return stack.no_such_thing
    with pytest.raises(AttributeError, match='no_such_thing'): wrong(stack(), DIGITS, SHORT)


def test_every_measure_that_is_registered_looks_first():
    for name, entry in entries('measure').items():
        measure = entry.load()
        with pytest.raises(ValueError, match='^stack must be a Stack'): measure(None, DIGITS, SHORT)
        assert measure.__wrapped__, name
