"""Runs on a GPU, wherever there is one: nothing waits for it inside a loop, and its results are the CPU's"""
from dataclasses import replace

import pytest
import torch

from modspec.analysis.specialization import specialization
from modspec.analysis.tables import read_table
from modspec.causes.deep_r import DeepR
from modspec.core.data import load_dataset
from modspec.core.files import read_manifest
from modspec.engine.run import run
from modspec.measures import bottleneck, weight_mask
from modspec.measures.performance import evaluate
from modspec.networks.choices import PRECISIONS
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.studies.extreme_sparsity.config import sparsity_run
from modspec.training import loop
from modspec.training.loop import train
from modspec.training.parameters import Parameters

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
DIGITS = load_dataset('digits')
SHORT = Parameters(n_pairs=1280, epochs=1, bottleneck_epochs=1, readout_epochs=1)
LEARNT = sparsity_run([1 / 50**2, 1.], seeds=4, n_hidden=50, n_pairs=8000, epochs=3, bottleneck_epochs=3, lr=1.,
                      mask_epochs=2, mask_batch_size=64)


class Strict:
    "A progress bar: from the first step of a loop to the last, an error for whatever waits for the GPU"
    def update(self, n):
        torch.cuda.set_sync_debug_mode('error')


@pytest.fixture
def unchecked(monkeypatch):
    "The one look at the losses, at the end of an epoch, ends the strict part"
    for module in (loop, bottleneck, weight_mask):
        monkeypatch.setattr(module, 'check_finite', lambda *args: torch.cuda.set_sync_debug_mode('default'))
    yield
    torch.cuda.set_sync_debug_mode('default')


def on(device, n_bottleneck=0, precision='fp32', sparsities=(1e-4, .01, 1.)):
    architecture = Recurrent(64, n_bottleneck=n_bottleneck, precision=precision)
    return init_stack(architecture, range(len(sparsities)), sparsities).to(device)


@pytest.mark.filterwarnings('ignore:Synchronization debug mode is a prototype feature:UserWarning')
@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('n_bottleneck', [0, 5])
def test_nothing_waits_inside_the_loops(unchecked, n_bottleneck, precision):
    data, stack = DIGITS.to('cuda'), on('cuda', n_bottleneck, precision)
    train(stack, data, SHORT, bar=Strict())
    if n_bottleneck: bottleneck.bottleneck_metric(stack, data, SHORT, bar=Strict())
    else:
        for scores in ('own', 'incoming'):
            weight_mask.train_masks(stack, data, replace(SHORT, mask_scores=scores), bar=Strict())


@pytest.mark.provokes('threads and devices')
def test_as_on_the_cpu():
    "Without random draws on the GPU, the first epoch's loss is the CPU's; with them, accuracies are alike"
    fixed = replace(SHORT, walk=0., rewire=False)
    losses = [train(on(device), DIGITS.to(device), fixed)[1].loss for device in ('cpu', 'cuda')]
    assert abs(losses[0] - losses[1]).max() < 1e-3
    accuracies = []
    for device in ('cpu', 'cuda'):
        trained, _ = train(on(device, sparsities=[.01] * 5), DIGITS.to(device))
        accuracies.append(evaluate(trained, DIGITS.to(device).test)[0].mean().item())
    assert abs(accuracies[0] - accuracies[1]) < .05


@pytest.mark.provokes('threads and devices')
def test_same_bits_twice():
    first, again = (train(on('cuda'), DIGITS.to('cuda'), SHORT)[0].weights for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_connections_keep_number_and_sign():
    stack = on('cuda')
    W = stack.weights['W_sparse'].clone()
    deep_r = DeepR(W, [.1, .03, .01], seeds=range(3))
    for step in range(40):
        W.grad = deep_r.sign * (torch.randn(W.shape, device='cuda') + .5)
        deep_r.step()
        assert (W != 0).sum((2, 3)).tolist() == [[1, 1], [100, 100], [10_000, 10_000]]
        assert not (W * deep_r.sign < 0).any(), step


@pytest.mark.provokes('threads and devices')
def test_a_whole_run(tmp_path):
    "Its manifest says where it was computed"
    config = sparsity_run([1e-4, 1.], seeds=2, n_pairs=1280, epochs=1, bottleneck_epochs=1, readout_epochs=1,
                          precision='bf16')
    table = read_table(run(config, tmp_path / 'out', device='cuda'))
    assert table.value.notna().all() and set(table.seed) == {0, 1}
    assert read_manifest(tmp_path / 'out')['training']['device'] == 'cuda'


@pytest.mark.slow
@pytest.mark.provokes('threads and devices')
def test_conclusion(tmp_path, device='cuda'):
    "That of the CPU, of networks that have learnt something: those of one connection are more specialized"
    table = read_table(run(LEARNT, tmp_path / 'out', device=device))
    found = specialization(table[table.trained])
    means = found.groupby(['measure', 'sparsity'])['specialization'].mean().unstack()
    assert set(means.index) == {'bottleneck', 'weight_mask', 'correlation', 'cka'} and means.shape[1] == 2
    assert (means.iloc[:, 0] > means.iloc[:, 1] + .1).all(), means
    accuracy = table[table.trained & (table.measure == 'accuracy')].groupby('architecture')['value'].mean()
    assert (accuracy > .4).all(), accuracy  # a guess is right in one of ten
