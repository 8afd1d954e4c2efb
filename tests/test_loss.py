"""Two readings of the paper: what may be asked of a sub-network, the collapse, and the rule that chooses a default"""
import numpy as np
import pytest
import torch
from invented import network, rows, specialized, table_of

from modspec.analysis.evidence import Evidence, Undecidable
from modspec.core.data import load_dataset
from modspec.core.tasks import admissible, parity_sentence_target, parity_target
from modspec.studies.extreme_sparsity.loss import (
    CRITERIA,
    criteria,
    likeness_of_parities,
    possible_answers,
    preferred_reading,
    shares_by_epoch,
)


def test_answers_of_sub_network_0_share_the_parity_of_its_digit():
    "and those of sub-network 1 are its digit and all of the other parity that may stand beside it"
    for digit in range(10):
        same = {d for d in range(10) if d % 2 == digit % 2}
        other = {d for d in range(10) if d % 2 != digit % 2 and (digit - d) % 10 != 1}
        assert possible_answers(0)[digit] == same
        assert possible_answers(1)[digit] == {digit} | other
        assert all(a == digit or (a - digit) % 2 for a in possible_answers(0, parity_sentence_target)[digit])
        assert all((a - digit) % 2 == 0 for a in possible_answers(1, parity_sentence_target)[digit])


def test_every_target_is_a_possible_answer_of_both():
    pairs = torch.cartesian_prod(torch.arange(10), torch.arange(10))
    pairs = pairs[admissible(pairs)]
    for (a, b), t in zip(pairs.tolist(), parity_target(pairs).tolist()):
        assert t in possible_answers(0)[a] and t in possible_answers(1)[b]


def test_likeness():
    "Positive for handwritten digits; turned around where the images of each parity are made unlike"
    digits = load_dataset('digits').train
    assert likeness_of_parities(digits) > .02
    shapes = torch.randint(0, 255, (2, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(10).repeat(3)
    noise = torch.randint(0, 20, (30, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    def made(of): return type(digits)(shapes[of] // 2 + noise, labels)
    assert likeness_of_parities(made(labels % 2)) > .5 > 0 > likeness_of_parities(made(labels // 5)) - .3


def test_the_loser_learns_only_under_the_mixture():
    data = load_dataset('digits')
    found = {loss: shares_by_epoch(data, loss, seeds=range(8)) for loss in ('winner', 'mixture')}
    for table in found.values():
        assert len(table) == 8 * 9 and table['lesser'].between(0, .5).all()
        np.testing.assert_allclose(table['lesser'], np.minimum(table['first'], 1 - table['first']), atol=1e-5)
    last = {loss: table.query('epoch == 8')['lesser'].mean() for loss, table in found.items()}
    assert last['mixture'] > last['winner'] + .1
    first = [table.query('epoch == 0')['lesser'].tolist() for table in found.values()]
    assert first[0] == first[1]  # the same networks before training


def evidence(accuracy=.9, lesser=.4, own_mask=.97, own=.9):
    found = []
    for p in (1e-4, 1.):
        for seed in range(3):
            for a in ('standard', 'bottleneck'):
                found += rows(network(p, seed, True, a), 'accuracy', accuracy)
                found += rows(network(p, seed, True, a), 'decision_share', [lesser, 1 - lesser], ['subnetwork'])
            found += rows(network(p, seed), 'weight_mask', [[own_mask, 1 - own_mask], [1 - own_mask, own_mask]])
            found += rows(network(p, seed, True, 'bottleneck'), 'bottleneck', [[own, .2], [.2, own]])
    return Evidence(table_of(found))


@pytest.mark.parametrize('i, change', [(0, dict(accuracy=.84)), (1, dict(lesser=.2)), (2, dict(own_mask=.9)),
                                       (3, dict(own=.8))])
def test_criteria(i, change):
    assert criteria(evidence())['satisfied'].all() and [*criteria(evidence()).index] == [*CRITERIA]
    satisfied = criteria(evidence(**change))['satisfied'].tolist()
    assert satisfied == [k != i for k in range(4)]


def test_preferred_reading():
    "More criteria; ties to the first, the winner"
    better, worse = evidence(), evidence(lesser=.1)
    assert preferred_reading(dict(winner=worse, mixture=better))[0] == 'mixture'
    assert preferred_reading(dict(winner=better, mixture=worse))[0] == 'winner'
    best, found = preferred_reading(dict(winner=worse, mixture=evidence(own=.5)))
    assert best == 'winner' and found['mixture', 'satisfied'].sum() == found['winner', 'satisfied'].sum() == 3


def test_criteria_need_one_connection():
    e = evidence()
    with pytest.raises(Undecidable, match='single connection'): criteria(Evidence(e.table[e.table['sparsity'] == 1]))


def test_specialized_is_what_it_says():
    assert specialized(1.) == [[1., 0.], [0., 1.]]
