"Sizes of weights and states of both kinds of networks, against a plain computation"
import numpy as np
import pytest
import torch

from modspec.core.data import load_dataset
from modspec.core.tasks import held_out_pairs
from modspec.measures.sizes import network_sizes
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.studies.digit_pairs.config import DIGIT_PAIRS
from modspec.training.loop import gather_batch
from modspec.training.parameters import LayeredTraining


@pytest.mark.parametrize('kind', ['layers', 'pairs'])
def test_states_against_numpy(kind):
    "Every state of every image counts, and the rank is that of the last ones"
    if kind == 'layers':
        data, stack = load_dataset('retina'), init_feedforward(FeedForward(8, (6, 4), 2, 'tanh'), [0, 1], gain=3.)
        settings, pairs = LayeredTraining(dataset='retina', task='retina'), torch.arange(256)[None]
    else:
        data, stack = load_dataset('digits'), init_stack(Recurrent(64, n_hidden=7), [0, 1], .5)
        settings, pairs = DIGIT_PAIRS.settings(sparsity=1.), held_out_pairs(data.test)
    found, model = network_sizes(stack, data, settings), stack.architecture
    x, _ = gather_batch(data.test, pairs[None])
    states = [h.double().numpy() for h in model.states(stack.weights, model.drive(stack.weights, x))]
    for k in range(2):
        flat = np.concatenate([h[k].ravel() for h in states])
        assert found['saturated'][k].item() == pytest.approx((abs(flat) > .95).mean(), abs=1e-5)
        ranks = []
        for of_one in states[-1][k]:
            sigma = np.sqrt(np.linalg.eigvalsh(np.cov(of_one, bias=True)).clip(0))
            share = sigma / sigma.sum()
            ranks.append(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
        assert found['state_rank'][k].item() == pytest.approx(np.mean(ranks), rel=1e-3)
