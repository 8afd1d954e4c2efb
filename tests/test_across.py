"""Modules against sub-networks over sparsities: agreement beyond chance, and rules that can go both ways"""
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from modspec.analysis.evidence import VERDICTS, Evidence, Undecidable, read_evidence
from modspec.analysis.ledger import check_claims
from modspec.engine.plan import make_run
from modspec.engine.run import run
from modspec.measures.recurrent_modules import REGISTERED
from modspec.studies.upstream_downstream.across import (
    ACROSS,
    ACROSS_CLAIMS,
    ACROSS_LINES,
    DECIDING,
    across_table,
    across_values,
    beside_specialization,
    beyond_chance,
    figure_across,
)

P = np.geomspace(1e-4, 1, 5)
FALLING = np.linspace(1, 0, 5)


def table(agreement=FALLING, before=FALLING**3, q=FALLING / 2, updown=FALLING, special=FALLING, accuracy=.9, seeds=3):
    "Networks with given curves over sparsities, of both moments, and their specialization"
    rows = []
    for seed, k, trained in np.ndindex(seeds, len(P), 2):
        tiny = .001 * seed * (0 < k < 4)
        a = (agreement if trained else before)[k] + tiny
        values = dict(accuracy=accuracy, ecs_updown_recurrent=.6 + .4 * updown[k], ecs_updown_chance_recurrent=.6)
        for name in (*ACROSS, *DECIDING):
            values |= {f'split_ecs_recurrent_{name}': .3 + .7 * a, f'split_ecs_chance_recurrent_{name}': .3,
                       f'q_recurrent_{name}': q[k], f'split_q_recurrent_{name}': q[k], f'clusters_recurrent_{name}': 2}
        each = [(name, pd.NA, pd.NA, value) for name, value in values.items()]
        each += [(name, n, m, .1 + (special[k] + tiny) * (n == m)) for name in ('correlation', 'cka', 'weight_mask')
                 for n in (0, 1) for m in (0, 1)]
        about = dict(dataset='mnist', architecture='standard', sparsity=P[k], n_connections=round(P[k] * 1e4),
                     seed=seed, loss='mixture', trained=bool(trained), epoch=5 * trained)
        rows += [about | dict(zip(('measure', 'subnetwork', 'subtask', 'value'), one)) for one in each]
    return pd.DataFrame(rows).astype(dict(subnetwork='Int64', subtask='Int64'))


def verdicts(**changes): return check_claims(ACROSS_CLAIMS, Evidence(table(**changes))).set_index('id')['verdict']


def test_agreement_is_similarity_beyond_chance():
    evidence = Evidence(table())
    for name in ('input_jacobian', 'updown'):
        found = beyond_chance(evidence, name)
        assert found.shape == (3, 5) and np.allclose(found.iloc[0], FALLING)
    assert np.allclose(beyond_chance(evidence, 'input_jacobian', trained=False).iloc[0], FALLING**3)
    with pytest.raises(Undecidable, match='modules.yaml'): across_values(evidence, 'q_recurrent_nothing')


@pytest.mark.parametrize(('rule', 'changes'), [
    ('with-one-connection-modules-are-sub-networks', dict(agreement=FALLING * .75)),
    ('with-all-connections-they-are-not', dict(agreement=.2 + .8 * FALLING)),
    ('more-connections-less-agreement', dict(agreement=np.array([1, .1, .9, .2, 0]))),
    ('learning-keeps-sub-networks-apart', dict(before=FALLING)),
    ('more-connections-less-modular', dict(q=FALLING[::-1] / 2)),
    ('specialization-measures-see-the-same', dict(special=np.array([.5, .6, .7, .8, .9]))),
    ('families-agree-on-sub-networks-alone', dict(updown=.3 + .2 * FALLING))])
def test_each_rule_can_fail_alone(rule, changes):
    assert {*verdicts()} == {VERDICTS[0]} and rule in ACROSS_CLAIMS_IDS
    found = verdicts(**changes)
    assert found[rule] == VERDICTS[2], found


ACROSS_CLAIMS_IDS = {claim.id for claim in ACROSS_CLAIMS.values()}


def test_what_cannot_carry_a_verdict():
    "Networks that do not know their task, two seeds, and tables without the measure"
    assert {*verdicts(accuracy=.5)} == {*verdicts(seeds=2)} == {VERDICTS[3]}
    bare = Evidence(table().query('measure == "accuracy"'))
    assert {*check_claims(ACROSS_CLAIMS, bare)['verdict']} == {VERDICTS[3]}
    assert verdicts(updown=np.array([1, .8, .6, .4, .3]))['families-agree-on-sub-networks-alone'] == VERDICTS[1]


def test_table_and_relation_with_specialization():
    found = across_table(Evidence(table()))
    assert found.shape == (4 * 6 + 1, 5) and np.allclose(found.loc[('output_jacobian', 'Q*')], FALLING / 2)
    assert all(each.mean == pytest.approx(1) for each in beside_specialization(Evidence(table())).values())
    assert {*beside_specialization(Evidence(table()), within=True)} == {'weight_mask', 'correlation', 'cka'}


def test_figure_has_a_line_and_an_untrained_one_for_each():
    fig = figure_across(Evidence(table()))
    agreement, q = fig.axes
    for ax, n in ((agreement, len(ACROSS_LINES)), (q, len(DECIDING))):
        curves = [line for line in ax.lines if len(line.get_xdata()) == 5]
        assert len(curves) == 2 * n and ax.get_xscale() == 'log'
    plt.close(fig)


def test_reads_what_a_run_writes(tmp_path):
    short = dict(architecture='standard', epochs=1, n_pairs=640, n_hidden=10, batch_size=32, module_pairs=10)
    folder = run(make_run('extreme_sparsity', short, [.01, .05, .2, .5, 1.], seeds=3), tmp_path / 'run',
                 only=['recurrent_modules', 'performance'])
    evidence = read_evidence(folder)
    assert {*REGISTERED[0]['values']} <= {*evidence.table['measure']}
    found = across_table(evidence)
    assert (found.loc[('input_jacobian', 'Q*')] >= found.loc[('input_jacobian', 'Q of sub-networks')] - 1e-9).all()
    plt.close(figure_across(evidence))
    told = check_claims(ACROSS_CLAIMS, evidence)
    assert (told['verdict'] == VERDICTS[3]).all() and told['why'].str.contains('do not do their task').all()
