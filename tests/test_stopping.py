"Images kept aside: who trains on what, when rates fall, when a network is done, which weights count"
import pytest
import torch
from tqdm.auto import tqdm

from modspec.core.data import load_dataset
from modspec.core.streams import generators
from modspec.core.tasks import DIGIT
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.stack import Stack
from modspec.studies.upstream_downstream.config import UPSTREAM_DOWNSTREAM
from modspec.training.loop import epoch_pairs, loss_aside, train, train_by_epoch
from modspec.training.optimizers import Adam, AtPace
from modspec.training.stopping import FALL, Watch, kept_aside

DIGITS = load_dataset('digits')
MODEL = FeedForward(64, (12,))


def settings(**values):
    return UPSTREAM_DOWNSTREAM.settings(**dict(n_pairs=1000, batch_size=50, lr=0.01) | values)


def test_nobody_trains_on_what_is_kept_aside():
    training, aside = kept_aside(len(DIGITS.train), 0.1, [3, 5])
    pairs = epoch_pairs(DIGITS.train.labels, 4000, generators([3, 5], 'pairs'), 1, DIGIT.allowed, training)
    for own, drawn, kept in zip(training, pairs, aside):
        assert {*drawn.flatten().tolist()} == {*own.tolist()} and not {*own.tolist()} & {*kept.tolist()}
    assert torch.equal(kept_aside(len(DIGITS.train), 0.1, [5])[1], aside[1:])


def test_rates_fall_as_those_of_pytorch():
    w = torch.zeros(1, 2, requires_grad=True)
    stack = Stack(MODEL, {'W': w}, (0,))
    paced = AtPace(Adam([w], lr=1.), [w], 1)
    watch = Watch(stack, paced, *kept_aside(10, 0.5, [0]), plateau=3, patience=0)
    theirs = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=FALL, patience=3)
    losses = torch.rand(60, generator=torch.Generator().manual_seed(0)).cumsum(0).cos() + 2
    for loss in losses:
        watch.look(loss[None])
        schedule.step(loss)
        assert paced.pace.item() == pytest.approx(theirs.param_groups[0]['lr'])
    assert paced.pace < 0.01 and watch.best == losses.min() and not watch.done


def test_each_network_ends_at_its_best_as_if_it_were_alone():
    how = settings(epochs=40, patience=2, plateau=1, lr=0.1)
    stack = init_feedforward(MODEL, [0, 1, 2])
    trained, history = train(stack, DIGITS, how)
    lengths = history.groupby('network')['epoch'].max()
    assert lengths.nunique() > 1 and lengths.max() < 40, 'networks end at different times'
    for k in range(3):
        alone, course = train(stack[k], DIGITS, how)
        assert len(course) == lengths[k]
        for name, w in alone.weights.items():
            torch.testing.assert_close(trained.weights[name][k:k + 1], w, rtol=0, atol=1e-3)
    losses = []
    with tqdm(disable=True) as bar:
        for at_best, _, _ in train_by_epoch(stack, DIGITS, how, bar=bar):
            losses.append(loss_aside(at_best, DIGITS.train, kept_aside(len(DIGITS.train), 0.1, stack.seeds)[1], DIGIT))
    for k, end in lengths.items():
        own = torch.stack(losses)[:, k]
        assert own.diff().le(1e-6).all() and own[int(end) - 3] == own[-1], 'best two epochs before the end, never worse'


def test_without_images_aside_the_last_weights_count():
    stack, how = init_feedforward(MODEL, [0]), dict(epochs=3, validation=0)
    trained, history = train(stack, DIGITS, settings(**how))
    other, _ = train(stack, DIGITS, settings(**how, patience=1, plateau=1))
    assert len(history) == 3
    assert all(torch.equal(w, other.weights[name]) for name, w in trained.weights.items())


def test_the_bar_is_full_at_an_early_end():
    with tqdm(total=500 * 20) as bar: train(init_feedforward(MODEL, [0]), DIGITS, settings(lr=0.1, patience=1), bar=bar)
    assert bar.n == bar.total


@pytest.mark.parametrize('share', [0.0001, 0.99999])
def test_an_empty_part_is_refused(share):
    with pytest.raises(ValueError, match=f'validation {share} of 100 images'): kept_aside(100, share, [0])
