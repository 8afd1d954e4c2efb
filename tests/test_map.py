"""The map of sparsities and rates, and the claims that rest on it, in invented worlds"""
from itertools import product

import numpy as np
import pytest
from invented import network, results_folder, rows, specialized, table_of
from scipy.stats import spearmanr

from modspec.analysis.evidence import Undecidable, read_evidence
from modspec.studies.extreme_sparsity.claims import sparsity_claims
from modspec.studies.extreme_sparsity.map import (
    MAIN_MEASURES,
    as_cells,
    explained_over_time,
    figure_equal,
    figure_houses,
    figure_map,
    map_networks,
    partial_spearman,
    shares,
)

SPARSITIES, RATES = (1e-4, 1e-3, .01, .1, .3, 1.), (0., .001, .01, .1)
MAP = [name for name, claim in sparsity_claims().items()
       if claim.where.startswith('The map') and name != 'digits-change-houses']


def networks_at(spec, of, rng, accuracy=.94, norm=1.):
    found = []
    for architecture in ('standard', 'bottleneck'):
        here = of | dict(architecture=architecture)
        found += rows(here, 'accuracy', accuracy + rng.normal(0, .005)) + rows(here, 'link_norm', norm)
    for measure in MAIN_MEASURES:
        here = of | dict(architecture='bottleneck' if measure == 'bottleneck' else 'standard')
        found += rows(here, measure, specialized(np.clip(spec + rng.normal(0, .01), -1, 1)))
    return found


def sweep(spec, sparsities=SPARSITIES, rates=RATES, seeds=4, norm=lambda p, rate: 1., loss='mixture', **more):
    "A table of values in which specialization is `spec(p, rate)`"
    rng, found = np.random.default_rng(0), []
    for p, rate, seed in product(sparsities, rates, range(seeds)):
        of = network(p, seed, connection_lr=rate, loss=loss, **more)
        found += networks_at(spec(p, rate), of, rng, norm=norm(p, rate) * rng.uniform(.8, 1.2))
    return table_of(found)


def evidence(folder, spec, dense=lambda name: .1, fixed=None, **more):
    "A folder of results with a map, its part without rewiring, and the dense end beside it"
    results_folder(folder / 'main', sweep(spec, rates=(.1,)))
    results_folder(folder / 'map', sweep(spec, **more))
    results_folder(folder / 'map_fixed', sweep(fixed or spec, SPARSITIES[:3], RATES[1:]))
    rng, found = np.random.default_rng(0), []
    for name, seed in product(('baseline', 'adam'), range(4)):
        found += networks_at(dense(name), network(1., seed, loss='mixture', variation=name), rng)
    results_folder(folder / 'dense', table_of(found))
    return read_evidence(folder / 'main')


def verdicts(evidence): return {name: sparsity_claims()[name].found(evidence).verdict for name in MAP}


def by_sparsity(p, rate): return -.2 * np.log10(p)


def test_where_sparsity_does_it(tmp_path):
    found = verdicts(evidence(tmp_path, by_sparsity))
    no = {'dense-can-be-specialized', 'faster-is-less-specialized'}
    assert len(found) == 9 and {name for name, verdict in found.items() if verdict != 'holds'} == no
    assert {found[name] for name in no} <= {'does not hold', 'holds partly'}


def test_where_the_rate_does_it(tmp_path):
    "Specialization falls with the rate alone; what does not move is less specialized; dense networks always are"
    falls = {0.: .1, .001: .8, .01: .5, .1: .2}
    found = verdicts(evidence(tmp_path, lambda p, rate: falls[rate], dense=lambda name: .5,
                              fixed=lambda p, rate: falls[rate] + .15))
    yes = {'dense-can-be-specialized', 'faster-is-less-specialized'}
    assert {name for name, verdict in found.items() if verdict == 'holds'} == yes
    assert found['learning-links-is-not-needed'] == 'does not hold' == found['some-reading-has-none-when-dense']


def test_strength_is_held_equal(tmp_path):
    "Specialization follows the norm, and the norm follows the sparsity: at equal norm nothing is left of it"
    norm = lambda p, rate: (p * rate)**.5  # noqa: E731
    found = verdicts(evidence(tmp_path, lambda p, rate: -.1 * np.log10(p * max(rate, 1e-3)), norm=norm))
    assert found['sparser-at-equal-norm'] != 'holds' and found['sparser-at-equal-accuracy'] == 'holds'


def steps(folder, spec):
    "The sweep that tests the prediction: specialization is `spec(p, rate, T)`"
    rng, found = np.random.default_rng(0), []
    for p, rate, T, seed in product((4e-4, 1.), (.001, .1), (3, 4, 6), range(4)):
        of = network(p, seed, connection_lr=rate, loss='mixture', n_steps=T)
        found += networks_at(spec(p, rate, T), of, rng)
    return results_folder(folder / 'steps', table_of(found))


@pytest.mark.parametrize(('spec', 'verdict'), [
    (lambda p, rate, T: .4 if p < 1 or rate < .1 or T == 3 else -.3, 'holds'),
    (lambda p, rate, T: .4, 'holds partly'), (lambda p, rate, T: .4 if T == 3 else -.3, 'holds partly'),
    (lambda p, rate, T: .1 if (p, rate) == (1., .1) else -.3, 'does not hold')])
def test_prediction(tmp_path, spec, verdict):
    results_folder(tmp_path / 'main', sweep(by_sparsity, rates=(.1,)))
    steps(tmp_path, spec)
    assert sparsity_claims()['digits-change-houses'].found(read_evidence(tmp_path / 'main')).verdict == verdict


def test_explained_over_time():
    "The mean over sub-networks of what the own and the other digit explain, step by step"
    eta = np.zeros((2, 2, 2)) + [[[.6, .1], [.2, .5]], [[.1, .7], [.4, .3]]]  # [time, sub-network, digit]
    of = network(1., 0, connection_lr=.1)
    table = table_of(rows(of, 'explained', eta, ['time', 'subnetwork', 'subtask']))
    found = explained_over_time(table, ['connection_lr']).set_index(['digit', 'step'])['value']
    assert found['own', 1] == pytest.approx(.55) and found['other', 1] == pytest.approx(.15)
    assert found['own', 2] == pytest.approx(.2) and found['other', 2] == pytest.approx(.55)
    assert len(figure_houses(table, 'connection_lr').axes) == 1


def test_without_the_map(tmp_path):
    results_folder(tmp_path / 'main', sweep(by_sparsity, rates=(.1,)))
    results_folder(tmp_path / 'map', sweep(by_sparsity, loss='winner'))  # of another reading
    found = {name: sparsity_claims()[name].found(read_evidence(tmp_path / 'main')) for name in MAP}
    assert {one.verdict for one in found.values()} == {'cannot be decided here'}
    assert all('beside the results' in one.why for one in found.values())
    with pytest.raises(Undecidable): read_evidence(tmp_path / 'main').sweep('map')


def test_a_reading_has_a_sweep_of_its_own(tmp_path):
    results_folder(tmp_path / 'main', sweep(by_sparsity, rates=(.1,), loss='winner'))
    results_folder(tmp_path / 'map', sweep(by_sparsity))
    results_folder(tmp_path / 'map_winner', sweep(by_sparsity, loss='winner', seeds=3))
    found = read_evidence(tmp_path / 'main').sweep('map')
    assert set(found['loss']) == {'winner'} and set(found['seed']) == {0, 1, 2}


def test_shares_and_partial_correlation():
    rng = np.random.default_rng(0)
    row, column = rng.normal(size=5), rng.normal(size=3)
    both = shares((row[:, None] + column)[None])
    assert sum(both) == pytest.approx(1) and both[0] == pytest.approx(row.var() / (row.var() + column.var()))
    assert shares(np.ones((2, 3, 4))) == (0, 0)
    x, y, z = rng.normal(size=(3, 500))
    assert partial_spearman(x, y, np.ones(500)) == pytest.approx(spearmanr(x, y)[0])
    assert abs(partial_spearman(z + x / 9, z + y / 9, z)) < .2 < .9 < spearmanr(z + x / 9, z + y / 9)[0]
    y[0] = np.nan  # a network without a defined specialization is left out
    assert partial_spearman(x, y, z) == pytest.approx(partial_spearman(x[1:], y[1:], z[1:]))


def test_one_number_per_network_and_figures():
    found = map_networks(sweep(by_sparsity, seeds=2))
    assert len(found) == len(SPARSITIES) * len(RATES) * 2
    cells = as_cells(found, 'correlation')
    assert cells.shape == (2, len(SPARSITIES), len(RATES)) and cells[:, 0].mean() > cells[:, -1].mean() + .5
    assert figure_map(found).axes and figure_equal(found[found['connection_lr'] > 0]).axes
