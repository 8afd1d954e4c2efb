"How the modules of a layer agree, beside what they are; one pass for both"
from dataclasses import replace

import pytest
import torch
from test_associations import layered, settings, small_data

from modspec.core.registry import entries
from modspec.measures import associations as home
from modspec.measures.alignment import ALIGNMENTS, aligned
from modspec.measures.associations import ASSOCIATIONS, partitions
from modspec.measures.modules import layer_alignment, unit_modules

ABOUT = entries('measure')['associations'].about


def inputs(data): return data.test.images.float() / 255, data.test.labels


def test_what_is_registered():
    "each of the eight against each, by the names and in the order in which they come"
    assert ABOUT['against'] == [*ASSOCIATIONS]
    against = [name for name, how in ABOUT['values'].items() if 'against' in how['axes']]
    assert against == [f'{kind}_{name}' for kind in ALIGNMENTS for name in ASSOCIATIONS]
    assert all(ABOUT['values'][name]['axes'] == ['layer', 'against'] for name in against)


def with_a_dead_unit(stack):
    weights = {name: w.clone() for name, w in stack.weights.items()}
    weights['b_1'][0, 0, 1] = -1e4
    return replace(stack, weights=weights)


def test_values_are_those_of_the_divisions_without_dead_units():
    stack, data = with_a_dead_unit(layered()), small_data()
    values = unit_modules(stack, data, settings(module_trials=3))
    assert values['dead_units'][0, 0] >= 1
    for layer, (A, modules, dead) in enumerate(partitions(stack, *inputs(data), trials=3)):
        found = aligned(A, {name: labels.masked_fill(dead, -1) for name, labels in modules.items()})
        for kind in ALIGNMENTS:
            stacked = torch.stack([values[f'{kind}_{name}'][:, layer] for name in ASSOCIATIONS], 1)
            assert torch.equal(stacked, found[kind]) and torch.equal(stacked, stacked.mT)


def test_a_dead_unit_does_not_matter_to_the_agreement():
    "downstream, where it has a module"
    stack, data = with_a_dead_unit(layered()), small_data()
    A, modules, dead = next(partitions(stack, *inputs(data), trials=3))
    assert modules['output_jacobian'][0, 1] >= 0 > modules['input_jacobian'][0, 1] and dead[0, 1]
    moved = {name: labels.clone() for name, labels in modules.items()}
    moved['output_jacobian'][0, 1] = 17
    before, after = layer_alignment(A, modules, dead), layer_alignment(A, moved, dead)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_is_computed_twice(monkeypatch):
    "each layer of the networks once, and nothing is compared in those of shuffled weights"
    calls, compared = [], []
    found, compare = home.associations, aligned

    def counted(stack, *args, layer):
        calls.append(layer)
        return found(stack, *args, layer=layer)
    monkeypatch.setattr(home, 'associations', counted)
    monkeypatch.setattr('modspec.measures.modules.aligned', lambda *of: compared.append(1) or compare(*of))
    unit_modules(layered(), small_data(), settings(module_trials=1, module_draws=2))
    assert calls == [1, 2] * 3 and len(compared) == 2


@pytest.mark.parametrize('kind', ALIGNMENTS)
def test_an_association_agrees_with_itself(kind):
    "unless it has no modularity that could be transferred"
    values = unit_modules(layered(), small_data(), settings(module_trials=3))
    own = torch.stack([values[f'{kind}_{name}'][..., i] for i, name in enumerate(ASSOCIATIONS)])
    assert (own > 0).any() and own.max().item() == pytest.approx(1)
    if kind not in ('ecs_chance', 'transfer'): assert own.min().item() == pytest.approx(1)
    if kind == 'transfer': assert torch.equal(own.round(), own.round(decimals=9))
