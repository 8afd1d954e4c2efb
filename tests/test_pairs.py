"""Claims on pairs of digits decide what they should on invented networks, and real networks give what they need"""
import numpy as np
import pandas as pd
import pytest

from modspec.analysis.evidence import VERDICTS, Evidence, Undecidable
from modspec.analysis.tables import read_table
from modspec.engine.plan import make_run
from modspec.engine.run import run
from modspec.studies.causes.effects import nulls_of
from modspec.studies.digit_pairs.claims import PAIRS_CLAIMS, PAIRS_LEDGER, POINTS, pairs_at, standing
from modspec.studies.digit_pairs.effects import (
    BEYOND_PAIRS,
    FUNCTIONAL,
    LEARNED,
    STRUCTURAL,
    figure_pairs,
    learned,
    pair_effects,
    pair_networks,
)
from modspec.studies.extreme_sparsity.figures import MAIN_MEASURES

HOLDS, PARTLY, FAILS, OPEN = VERDICTS
VARIATIONS = 'baseline', *(point for points in POINTS.values() for point in points)


def invented(up=lambda p, variation: 0., accuracy=lambda p, variation: .9, n=5, sparsities=(1e-4, .01, 1.)):
    "A sweep whose measures all rise by `up` with a cause; seeds differ by 0.001"
    rows = []
    for p, variation, seed in ((p, v, s) for p in sparsities for v in VARIATIONS for s in range(n)):
        lift = 0 if variation == 'baseline' else up(p, variation)
        about = dict(dataset='digits', architecture='standard', sparsity=p, n_connections=1, q=.5, variation=variation,
                     seed=seed, trained=True, epoch=5)
        values = dict(accuracy=accuracy(p, variation), digit_fi=.5 + lift + .001 * seed)
        for name, sign in STRUCTURAL.items():
            values[name] = sign * (1 + lift + .001 * seed)
            values |= {f'{name}_{null}_{part}': sign * .5 if part == 'mean' else .1
                       for null in nulls_of(name) for part in ('mean', 'sd')}
        rows += [about | dict(measure=name, value=value) for name, value in values.items()]
        own = .8 + .1 * (p < 1) + .1 * lift
        rows += [about | dict(measure=name, subnetwork=i, subtask=k, value=own if i == k else .4)
                 for name in MAIN_MEASURES for i in (0, 1) for k in (0, 1)]
    return pd.DataFrame(rows)


def of_causes(found):
    "The verdicts of claims that are made of every cause"
    return {verdict for name, verdict in found.items() if name.split('-in-')[0].replace('-', ' ') in POINTS}


def verdicts(table): return {name: claim.found(Evidence(table)).verdict for name, claim in PAIRS_CLAIMS.items()}


def test_what_rises_everywhere_holds_and_what_does_not_move_does_not():
    found = verdicts(invented(lambda p, v: .1 + .05 * len(v)))
    assert of_causes(found) == {HOLDS}
    assert found['structure-tells-function'] == HOLDS and found['prices-scatter-pairs'] == FAILS
    flat = verdicts(invented())
    assert of_causes(flat) == {FAILS}
    assert flat['wiring-does-more-than-causes'] == HOLDS
    assert found['regularisers-generalise-by-modules-in-pairs'] == OPEN  # no gap was measured


def test_causes_can_do_more_than_wiring():
    strong = invented(lambda p, v: 3. * (v == 'dropout_1'))
    assert verdicts(strong)['wiring-does-more-than-causes'] == FAILS


def test_networks_that_do_not_know_their_task_decide_nothing():
    "The weaker point stands where the stronger one has lost too much; without either there is no verdict"
    table = invented(lambda p, v: .1, lambda p, v: .9 - 2 * LEARNED * (v in ('l2_1', 'l2_2', 'dropout_2')))
    networks = pairs_at(Evidence(table), .01)
    assert standing(networks, 'L1') == 'l1_2' and standing(networks, 'dropout') == 'dropout_1'
    with pytest.raises(Undecidable, match='L2 that know'): standing(networks, 'L2')
    assert not learned(networks)['dropout_2'] and verdicts(table)['L2-in-function'] == OPEN


def test_a_sweep_without_causes_or_without_the_sparsity_decides_nothing():
    for table in (invented().drop(columns='variation'), invented(sparsities=(1e-4, 1.))):
        assert verdicts(table)['L1-in-function'] == OPEN


def test_ranges_are_those_of_seeds():
    networks = pair_networks(invented(lambda p, v: .2)).loc[.01]
    cell = pair_effects(networks).set_index(['variation', 'column']).loc[('l1_2', 'q_max')]
    assert cell['low'] == pytest.approx(cell['high']) == pytest.approx(.2)
    assert len(figure_pairs(pair_networks(invented(lambda p, v: .2)), VARIATIONS[1:]).axes) == 9


def test_real_networks_have_every_column(tmp_path):
    "Both architectures, little training"
    config = make_run('digit_pairs', dict(epochs=1, bottleneck_epochs=1, n_pairs=640, readout_epochs=1, q_draws=2,
                                          q_trials=1, ncut_draws=2, given_draws=2, n_hidden=20), [.01, 1.], seeds=2)
    table = read_table(run(config, tmp_path / 'run')).assign(variation='baseline')
    networks = pair_networks(table)
    assert len(networks) == 4 and {*STRUCTURAL, *BEYOND_PAIRS, *FUNCTIONAL, 'gap', 'state_rank'} <= {*networks}
    assert np.isfinite(networks[[*STRUCTURAL, *FUNCTIONAL]]).all(axis=None)
    assert networks.loc[.01, 'q_given'].min() > networks.loc[1., 'q_given'].max()
    assert len(PAIRS_LEDGER.checked(tmp_path / 'run')) == len(PAIRS_CLAIMS)
