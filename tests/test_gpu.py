"""Runs on a GPU, wherever there is one: nothing waits for it inside a loop, and its results are the CPU's"""
from dataclasses import replace

import pytest
import torch
from test_experiment import Counter
from test_faults_threads import LEARNT, assert_conclusion

from modspec import bottleneck, training, weight_mask
from modspec.data import load_dataset
from modspec.deep_r import DeepR
from modspec.experiment import RunConfig, read_manifest, read_table, run
from modspec.network import PRECISIONS, Architecture, init_ensemble
from modspec.training import Parameters, evaluate, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
DIGITS = load_dataset('digits')
SHORT = Parameters(n_pairs=1280, epochs=1, bottleneck_epochs=1, readout_epochs=1)


class Strict(Counter):
    "From the first step of a loop to the last, an error for whatever waits for the GPU"
    def update(self, n):
        super().update(n)
        torch.cuda.set_sync_debug_mode('error')


@pytest.fixture
def unchecked(monkeypatch):
    "The one look at the losses, at the end of an epoch, ends the strict part"
    for module in (training, bottleneck, weight_mask):
        monkeypatch.setattr(module, 'check_finite', lambda *args: torch.cuda.set_sync_debug_mode('default'))
    yield
    torch.cuda.set_sync_debug_mode('default')


def on(device, n_bottleneck=0, precision='fp32', sparsities=(1e-4, .01, 1.)):
    architecture = Architecture(64, n_bottleneck=n_bottleneck, precision=precision)
    return init_ensemble(architecture, range(len(sparsities)), sparsities).to(device)


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('n_bottleneck', [0, 5])
def test_nothing_waits_inside_the_loops(unchecked, n_bottleneck, precision):
    data, ensemble = DIGITS.to('cuda'), on('cuda', n_bottleneck, precision)
    train(ensemble, data, SHORT, bar=Strict())
    if n_bottleneck: bottleneck.bottleneck_metric(ensemble, data, SHORT, bar=Strict())
    else:
        for scores in ('own', 'incoming'):
            weight_mask.train_masks(ensemble, data, replace(SHORT, mask_scores=scores), bar=Strict())


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
    ensemble = on('cuda')
    W = ensemble.weights['W_sparse'].clone()
    deep_r = DeepR(W, [.1, .03, .01], seeds=range(3))
    for step in range(40):
        W.grad = deep_r.sign * (torch.randn(W.shape, device='cuda') + .5)
        deep_r.step()
        assert (W != 0).sum((2, 3)).tolist() == [[1, 1], [100, 100], [10_000, 10_000]]
        assert not (W * deep_r.sign < 0).any(), step


@pytest.mark.provokes('threads and devices')
def test_a_whole_run(tmp_path):
    "Its manifest says where it was computed"
    config = RunConfig(sparsity=(1e-4, 1.), seeds=2, parameters=replace(SHORT, precision='bf16'))
    metrics = read_table(run(config, tmp_path / 'out', device='cuda'))
    assert metrics.value.notna().all() and set(metrics.seed) == {0, 1}
    assert read_manifest(tmp_path / 'out')['device'] == 'cuda'


@pytest.mark.slow
@pytest.mark.provokes('threads and devices')
def test_conclusion(tmp_path):
    "That of the CPU, of networks that have learnt something"
    assert_conclusion(read_table(run(LEARNT, tmp_path / 'out', device='cuda')))
