"""The study of causes: configurations, a run, effects beyond nulls, and claims that can come out either way"""
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from modspec.analysis.evidence import Evidence, estimate
from modspec.analysis.ledger import check_claims
from modspec.analysis.tables import read_table
from modspec.core.data import load_dataset
from modspec.core.files import read_manifest
from modspec.engine.config import load_config
from modspec.engine.plan import RunConfig
from modspec.engine.run import run
from modspec.measures.sides import side_indices
from modspec.studies.causes.claims import CAUSES_CLAIMS, CAUSES_LEDGER, MIDDLE
from modspec.studies.causes.config import CAUSES
from modspec.studies.causes.effects import (
    BEYOND,
    MODULAR,
    NULLS_OF,
    beyond_null,
    cause_effects,
    caused_networks,
    hedges,
    shift,
)
from modspec.studies.causes.run import retina_networks

CONFIGS = sorted((ROOT / 'config' / 'causes').glob('*.yaml'))
QUICK = dict(epochs=1, n_pairs=2560, ncut_draws=2, q_draws=2, q_trials=1, wiring_draws=2)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_configurations(path):
    sweep = load_config(path)
    assert sweep.study.name in ('causes', 'digit_pairs') and len(sweep.runs()) > 2


def test_claims_speak_of_points_of_the_sweep():
    assert {*MIDDLE.values()} <= {*load_config(ROOT / 'config' / 'causes' / 'retina.yaml').variations}


def test_a_run(tmp_path):
    "trains, measures all with nulls, and does nothing the second time"
    config = RunConfig(CAUSES, CAUSES.settings(**QUICK, towers=1.), seeds=2)
    folder = run(config, tmp_path / 'run')
    table, before = read_table(folder), read_manifest(folder)
    assert {*MODULAR, *(f'{m}_{null}_p' for m, nulls in NULLS_OF.items() for null in nulls)} <= {*table['measure']}
    assert table['value'].notna().all() and set(table['trained']) == {True, False}
    assert (table.query("measure == 'si' and trained")['value'] == 1).all()
    assert read_manifest(run(config, tmp_path / 'run')) == before


def test_the_same_seed_begins_alike_under_every_cause():
    runs = [RunConfig(CAUSES, CAUSES.settings(**change), seeds=2) for change in ({}, dict(dropout=.5), dict(gain=1.))]
    stacks = [retina_networks(config, load_dataset('retina'))['feedforward'] for config in runs]
    for stack in stacks[1:]:
        assert all(torch.equal(w, stack.weights[name]) for name, w in stacks[0].weights.items())
    assert (side_indices(stacks[0], (0, 1, 2, 3))['si'] < .3).all()


# effects

def invented(up, null_up=None, n=8, accuracy=1., learned=1.):
    "A sweep in which each variation raises every measure by `up`, its nulls by `null_up`, and training by `learned`"
    rng, rows = np.random.default_rng(0), []
    for variation, size in ({'baseline': 0.} | up).items():
        for seed in range(n):
            about = dict(variation=variation, seed=seed, dataset='retina')
            values = {'accuracy': accuracy, 'int': .1 + .1 * size, 'density': 1., 'weight_norm': 1.}
            for m, sign in MODULAR.items():
                values[m] = sign * (size + rng.normal(0, .05))
                for null in NULLS_OF[m]:
                    values |= {f'{m}_{null}_mean': sign * (null_up or {}).get(variation, 0.), f'{m}_{null}_sd': .1}
            rows += [about | dict(trained=True, measure=m, value=v) for m, v in values.items()]
            rows += [about | dict(trained=False, measure=m, value=v - learned * MODULAR.get(m, 0))
                     for m, v in values.items()]
    return pd.DataFrame(rows)


def test_an_effect_beyond_a_null_is_another_one():
    found = cause_effects(caused_networks(invented(dict(a=1., b=1.), dict(b=1.)))).set_index(['variation', 'column'])
    assert (found.loc['a', 'low'] > 0).all()
    assert (found.loc['b'].loc[[*MODULAR], 'low'] > 0).all() and (found.loc['b'].loc[BEYOND, 'low'] < 1).all()


def test_beyond_null_without_spread():
    "0 where all is equal, and nothing where it is not"
    z = beyond_null(pd.Series([1., 2., 3.]), pd.Series([1., 1., 1.]), pd.Series([0., 0., .5]))
    assert z[0] == 0 and np.isnan(z[1]) and z[2] == 4


def test_hedges_as_it_is_defined():
    networks = caused_networks(invented(dict(a=1.)))
    a, b = (networks.loc[name, 'si'].to_numpy() for name in ('a', 'baseline'))
    expected = (1 - 3 / (8 * 8 - 9)) * (a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    assert hedges(networks, 'a', 'si') == pytest.approx(expected)
    assert hedges(networks, 'a', 'density') == 0 and shift(networks, 'a', 'int').round(9).tolist() == [.1] * 8


# claims

SETTLED = [f'{kind}_settled_{period}' for kind in ('permuted', 'near') for period in (2, 4)]
EVERY = dict.fromkeys([*MIDDLE.values(), *SETTLED, 'shuffled_2', 'settled_2', 'settled_4', 'goals_4', 'permuted_2',
                       'permuted_4', 'near_2', 'near_4'], 1.)


def verdicts(table): return check_claims(CAUSES_CLAIMS, Evidence(table)).set_index('id')['verdict']


def test_claims_come_out_either_way():
    "a world in which every cause makes modules, and one in which none does anything"
    related = EVERY | dict.fromkeys([*SETTLED, 'shuffled_2', 'permuted_2', 'permuted_4', 'near_2', 'near_4'], 0.)
    yes, no = verdicts(invented(related)), verdicts(invented(dict.fromkeys(EVERY, -.5), learned=0.))
    decided = yes.drop(['modular-networks-adapt-faster', 'regularisers-generalise-by-modules', 'l2-has-a-square-root',
                        'prices-scatter'])
    assert (decided == 'holds').all(), decided[decided != 'holds']
    assert (no[decided.index] != 'holds').all() and no['prices-scatter'] == 'holds' != yes['prices-scatter']


def test_networks_that_do_not_know_their_task_decide_nothing():
    ignorant = verdicts(invented(EVERY, accuracy=.9))
    assert (ignorant.drop('l2-has-a-square-root') == 'cannot be decided here').all()


def test_a_table_without_causes_decides_nothing():
    plain = invented({}).drop(columns='variation')
    assert set(verdicts(plain).drop('l2-has-a-square-root')) == {'cannot be decided here'}
    assert CAUSES_LEDGER.claims() == CAUSES_CLAIMS


# the committed results

def test_controls_move_the_measures():
    "B18: networks cut in two are beyond the shuffles in their layers by all measures, untrained ones by none"
    table = read_table(ROOT / 'results' / 'causes_retina')
    networks, untrained = caused_networks(table), caused_networks(table, trained=False).loc['baseline']
    beyond = ['q_max, layer', 'ncut, layer', 'si, splits', 'fi, splits']
    for column in (*MODULAR, *beyond): assert estimate(shift(networks, 'towers_4', column)).low > 0, column
    for column in beyond: assert abs(estimate(untrained[column]).mean) < 1, column
    assert networks.groupby(level='variation').size().eq(30).all()
