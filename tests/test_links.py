"""Norms of links against numpy, and links at a new place counted by hand"""
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_network import lively

from modspec.core.data import load_dataset
from modspec.measures.links import first_links, link_strength
from modspec.networks.choices import STARTS
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.training.parameters import Parameters

DIGITS = load_dataset('digits')
SMALL = Recurrent(64, n_hidden=5)


@pytest.mark.parametrize('S', [2, 3])
def test_norms(S):
    "Frobenius norms, in the root mean square over directions or sub-networks; each network as if alone, bit for bit"
    stack = lively(replace(SMALL, n_subnetworks=S), [3, 4, 5], [.04, .2, 1.])
    found = link_strength(stack, DIGITS, Parameters())
    for k in range(3):
        for value, name in dict(link_norm='W_sparse', recurrent_norm='W_hh').items():
            norms = [np.linalg.norm(matrix) for matrix in stack.weights[name][k].double().numpy()]
            assert found[value][k].item() == pytest.approx(np.sqrt(np.mean(np.square(norms))), rel=1e-5)
        alone = link_strength(stack[k], DIGITS, Parameters())
        for name, value in found.items(): assert torch.equal(alone[name], value[k:k + 1])


@pytest.mark.parametrize('start', STARTS)
def test_first_links(start):
    "are those that networks begin with"
    stack = init_stack(SMALL, [3, 4], [.2, 1.], connection_start=start)
    assert torch.equal(first_links(stack, start), stack.weights['W_sparse'])


def test_moved():
    "Two links of five, and one of the five of the other direction; strength and sign do not count"
    stack = init_stack(SMALL, [3, 4], [.2, 1.])
    for d, n in ((0, 2), (1, 1)):
        W = stack.weights['W_sparse'][0, d].view(-1)
        old, new = W.nonzero()[:n, 0], (W == 0).nonzero()[:n, 0]
        W[new], W[old] = 1., 0.
    stack.weights['W_sparse'].mul_(-7)
    assert link_strength(stack, DIGITS, Parameters())['moved'].tolist() == pytest.approx([.3, 0.])
