"""The generalization gap: networks that know a data set by heart, those that guess, and what pairs are shown"""
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_measure_contract import DATA

from modspec.core.data import Dataset, Digits
from modspec.core.tasks import admissible, held_out_pairs, task_named
from modspec.engine.measure import has
from modspec.measures.generalization import generalization, seen_pairs
from modspec.measures.performance import evaluate
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.networks.stack import Stack
from modspec.training.parameters import Parameters, SparseTraining, applying, settings_class

PARITY, DIGIT = Parameters(), Parameters(task='digit', n_subnetworks=1)


def one_hot(labels, classes_shown):
    "Images that show a class, as `classes_shown` says it, of digits"
    images = F.one_hot(classes_shown, 10) * 255
    return Digits(images.to(torch.uint8), labels)


def test_pairs_are_fixed_and_as_many_as_held_out():
    for S in (2, 3):
        pairs = seen_pairs(DATA, task_named('parity'), S)
        assert pairs.shape == held_out_pairs(DATA.test, n_subnetworks=S).shape
        assert admissible(DATA.train.labels[pairs].T).all() and {*pairs.unique().tolist()} == {*range(len(DATA.train))}
        assert torch.equal(pairs, seen_pairs(DATA, task_named('parity'), S))
    assert not torch.equal(seen_pairs(DATA, task_named('parity')), held_out_pairs(DATA.train)[:, :4000])


def test_single_images_are_shown_once_each():
    assert seen_pairs(DATA, task_named('digit'), 1).tolist() == [[*range(len(DATA.train))]]


def reader(n=2):
    "A network of one layer that says which pixel is lit"
    stack = init_feedforward(FeedForward(10, (10,), 10), range(n))
    eye = torch.eye(10).expand(n, 1, 10, 10)
    weights = {name: (eye * 9 if name.startswith('W') else torch.zeros_like(w)) for name, w in stack.weights.items()}
    return Stack(stack.architecture, {name: w.clone() for name, w in weights.items()}, stack.seeds, stack.n_connections)


def test_a_network_that_is_right_on_training_images_alone():
    "Test images show the next digit, but for a quarter of them"
    labels = torch.arange(400) % 10
    shown = torch.where(torch.arange(400) < 300, (labels + 1) % 10, labels)
    data = Dataset('made up', one_hot(labels, labels), one_hot(labels, shown))
    found = generalization(reader(), data, DIGIT)
    assert found['train_accuracy'].tolist() == [1, 1] and found['gap'].tolist() == [.75, .75]
    swapped = generalization(reader(), replace(data, train=data.test, test=data.train), DIGIT)
    assert swapped['train_accuracy'].tolist() == [.25, .25] and swapped['gap'].tolist() == [-.75, -.75]


@pytest.mark.parametrize('stack', [init_stack(Recurrent(12, n_hidden=10), [0, 1], 1.),
                                   init_stack(Recurrent(12, n_hidden=10, n_subnetworks=3), [0, 1], 1.)])
def test_gap_is_that_of_two_accuracies(stack):
    found, S = generalization(stack, DATA, PARITY), stack.architecture.n_subnetworks
    known, _ = evaluate(stack, DATA.train, seen_pairs(DATA, task_named('parity'), S))
    new, _ = evaluate(stack, DATA.test)
    assert torch.equal(found['train_accuracy'], known) and torch.equal(found['gap'], known - new)
    assert (found['gap'].abs() < .1).all()  # nobody has been trained


def test_only_studies_that_ask_for_it_take_it():
    assert 'generalization' not in applying('measure', ('subnetworks', 'interconnections', 'bottleneck'))
    assert 'generalization' in applying('measure', ('few_images',))
    assert 'few_images' in has(reader()) and 'few_images' in has(init_stack(Recurrent(12), [0], 1.))
    assert settings_class(SparseTraining, ('few_images',))().task == 'parity'  # it declares no setting
