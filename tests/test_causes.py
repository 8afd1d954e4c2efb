"""The study of causes: configurations, a run, effects beyond nulls, and claims that can come out either way"""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tqdm import tqdm

from modspec.analysis.evidence import Evidence, estimate
from modspec.analysis.ledger import check_claims
from modspec.analysis.tables import read_table
from modspec.causes.goals import on_training_goal
from modspec.causes.modular_start import ModularStart
from modspec.causes.pruning import Pruning, kept_weights, pruned_share
from modspec.causes.spectral_penalty import SpectralPenalty, normalized_laplacian, small_eigenvalues
from modspec.causes.towers import tower_blocks
from modspec.core.data import load_dataset
from modspec.core.files import read_manifest
from modspec.core.tasks import RETINA, RETINA_RANDOM, task_named
from modspec.engine.config import load_config
from modspec.engine.plan import RunConfig
from modspec.engine.run import run
from modspec.measures.sides import side_indices
from modspec.networks.feedforward import FeedForward, init_feedforward, logits
from modspec.networks.stack import last_state
from modspec.studies.causes.claims import CAUSES_CLAIMS, CAUSES_LEDGER, MIDDLE
from modspec.studies.causes.config import CAUSES
from modspec.studies.causes.effects import (
    BEYOND,
    MAPPED,
    MODULAR,
    beyond_null,
    cause_effects,
    caused_networks,
    hedges,
    nulls_of,
    shift,
)
from modspec.studies.causes.run import retina_networks
from modspec.training.loop import acting, gather_batch, make_optimizers, train, train_by_epoch, train_epoch

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
    assert {*MAPPED, *(f'{m}_{null}_p' for m in MAPPED for null in nulls_of(m))} <= {*table['measure']}
    assert table['value'].notna().all() and set(table['trained']) == {True, False}
    assert (table.query("measure == 'si' and trained")['value'] == 1).all()
    assert read_manifest(run(config, tmp_path / 'run')) == before


def test_the_same_seed_begins_alike_under_every_cause():
    runs = [RunConfig(CAUSES, CAUSES.settings(**change), seeds=2) for change in ({}, dict(dropout=.5), dict(gain=1.))]
    stacks = [retina_networks(config, load_dataset('retina'))['feedforward'] for config in runs]
    for stack in stacks[1:]:
        assert all(torch.equal(w, stack.weights[name]) for name, w in stacks[0].weights.items())
    assert (side_indices(stacks[0], (0, 1, 2, 3))['si'] < .3).all()


# causes that are made for comparison

def layered(*seeds, layers=(16, 8)): return init_feedforward(FeedForward(8, layers, 2, 'tanh'), seeds, start='glorot')


def taught(stack, **changes):
    "Networks after training on the retina, as the study trains them"
    with tqdm(disable=True) as bar:
        return train(stack, load_dataset('retina'), CAUSES.settings(**changes), bar=bar)[0]


def test_a_modular_start_multiplies_exactly():
    "by two factors, and a unit is in one group for what comes in and what goes out"
    before, stack = layered(0, 1, 2).weights, layered(0, 1, 2)
    ModularStart(stack, torch.tensor([0., .5, 1.]), CAUSES.settings(), 10)
    factors = [stack.weights[f'W_{layer}'] / before[f'W_{layer}'] for layer in ('1', '2', 'out')]
    for k, (within, between) in enumerate([(1., 1.), (2.8, .8), (4.6, .6)]):
        same = [torch.isclose(f[k, 0], torch.tensor(within)) for f in factors]
        assert all((one | torch.isclose(f[k, 0], torch.tensor(between))).all() for one, f in zip(same, factors))
        for incoming, outgoing in zip(same, same[1:]):  # who shares a source, shares all, and all targets
            alike = (incoming.float() @ incoming.float().T) > 0
            assert all(torch.equal(outgoing[:, i], outgoing[:, j]) for i, j in alike.nonzero().tolist())
    assert all(torch.equal(stack.weights[f'b_{layer}'], before[f'b_{layer}']) for layer in ('1', '2', 'out'))


def test_the_price_on_clusterability_has_the_gradient_of_differences():
    stack = layered(0, 1, layers=(6, 4))
    weights = {name: w.double().requires_grad_() for name, w in stack.weights.items()}
    price = SpectralPenalty(stack, torch.tensor([2., 1.]).double(), CAUSES.settings(), 10)
    slope, = torch.autograd.grad(price.penalty(weights, None, None).sum(), weights['W_2'])
    for place in [(0, 0, 1, 2), (1, 0, 3, 5)]:
        cost = []
        for step in (1e-5, -1e-5):
            moved = weights['W_2'].detach().clone()
            moved[place] += step
            cost.append(price.penalty(weights | {'W_2': moved}, None, None).sum().item())
        assert slope[place].item() == pytest.approx((cost[0] - cost[1]) / 2e-5, rel=1e-5)


def test_the_price_on_clusterability_is_a_mean_of_eigenvalues():
    "also where they are equal: two parts that are alike"
    graph = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))[None].double().requires_grad_()
    assert small_eigenvalues(normalized_laplacian(graph), 1).item() == pytest.approx(0, abs=1e-8)
    slope, = torch.autograd.grad(small_eigenvalues(normalized_laplacian(graph), 1).sum(), graph)
    slope = slope + slope.mT  # to join the parts costs the same everywhere, to join what is one costs nothing
    joining = slope[0, :3, 3:]
    assert (joining > .1).all() and torch.allclose(joining, joining[0, 0])
    assert torch.allclose(slope[0, :3, :3], torch.zeros(1).double(), atol=1e-6)
    matrix = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0)).double()
    laplacian = normalized_laplacian(matrix + matrix.mT)
    torch.testing.assert_close(small_eigenvalues(laplacian, 3), torch.linalg.eigvalsh(laplacian)[:, 1:4].sum(1))
    with pytest.raises(ValueError, match='spectral_clusters must be below the number of nodes, 33, got 40'):
        taught(layered(0), spectral_strength=1., spectral_clusters=40)


def by_rank(W, share):
    "Weights in the order of their sizes, of equal ones in that of their places, as many gone as the share says"
    size = W.abs().flatten(1)
    rank = size.argsort(dim=1, stable=True).argsort(1)
    return (rank >= (share * size.shape[1]).round()[:, None]).view_as(W).to(W)


weights_and_shares = hnp.array_shapes(min_dims=2, max_dims=4, max_side=7).flatmap(lambda shape: st.tuples(
    hnp.arrays(np.float32, shape, elements=st.one_of(st.integers(-3, 3), st.floats(-3, 3, width=32))),
    hnp.arrays(np.float32, shape[0], elements=st.one_of(st.just(0.), st.sampled_from([.25, .5]),
                                                        st.floats(0, .9990000128746033, width=32)))))


@settings(deadline=None)
@given(weights_and_shares, st.booleans())
def test_the_smallest_weights_are_those_of_lowest_rank(drawn, again):
    "also of equal sizes, and where some are gone already"
    W, share = map(torch.from_numpy, drawn)
    if again: W = W * by_rank(W, share)
    assert torch.equal(kept_weights(W, share), by_rank(W, share))


@pytest.mark.parametrize('regrowth', [False, True])
def test_pruning_at_every_step_takes_the_weights_of_lowest_rank(regrowth):
    stack = init_feedforward(FeedForward(8, (10,), 2), seeds=[0, 1])
    other, share = {name: w.clone() for name, w in stack.weights.items()}, torch.tensor([.7, 0.])
    how = SimpleNamespace(pruning_when='during', regrowth=regrowth)
    made, rng, gone = Pruning(stack, share, how, 40), torch.Generator().manual_seed(0), {}
    for step in range(40):
        for name, w in other.items():
            change = .05 * torch.randn(w.shape, generator=rng)
            for of in (w, stack.weights[name]): of += change
        made.after(step)
        matrices = {name: w for name, w in other.items() if name.startswith('W_')}
        for name in gone: other[name] *= gone[name]
        if step % 10 and step != 30: continue
        now = {name: by_rank(w, share * pruned_share(step, 40)) for name, w in matrices.items()}
        for name in now: other[name] *= now[name]
        if not regrowth: gone = now
        assert all(torch.equal(w, other[name]) for name, w in stack.weights.items())


@pytest.mark.parametrize('rewire', [False, True])
@pytest.mark.parametrize('share', [.5, .9, .99, 1.])
def test_links_between_towers_keep_their_number(share, rewire):
    "exactly, in each direction of each layer, and they move if they may"
    stack = layered(0, 1)
    first, ours = (taught(stack, towers=share, towers_rewire=rewire, epochs=e, n_pairs=256 * 20) for e in (1, 8))
    moved = False
    for name in ('W_1', 'W_2'):
        for rows, columns in tower_blocks(tuple(ours.weights[name].shape[2:])):
            before, after = (one.weights[name][:, 0, rows, columns].flatten(1) != 0 for one in (first, ours))
            assert (after.sum(1) == (max(1, round((1 - share) * 32)) if share < 1 else 0)).all()
            moved |= not torch.equal(before, after)
        within = ours.weights[name][:, 0, :ours.weights[name].shape[2] // 2, :ours.weights[name].shape[3] // 2]
        assert within.all()
    assert moved == (rewire and share < 1)


def test_moved_links_keep_their_signs():
    "A place has the sign of the weight that was drawn there"
    stack = layered(0, 1)
    ours = taught(stack, towers=.75, towers_rewire=True, epochs=4, n_pairs=256 * 50)
    for name in ('W_1', 'W_2'):
        for rows, columns in tower_blocks(tuple(ours.weights[name].shape[2:])):
            before, after = (one.weights[name][:, 0, rows, columns] for one in (stack, ours))
            assert (before * after >= 0).all()


def steps_of(stack, n_steps, **changes):
    "Weights after every step of training"
    how = CAUSES.settings(epochs=n_steps, n_pairs=256, **changes)
    with tqdm(disable=True) as bar:
        course = train_by_epoch(stack, load_dataset('retina'), how, bar=bar)
        return [{name: w.clone() for name, w in now.weights.items()} for now, _, _ in course]


@pytest.mark.parametrize('settle', [0, 3])
def test_no_loss_acts_in_periods_of_noise(settle):
    "Without noise, nothing at all; and learning goes on from there"
    E, n = 4, 16 + settle
    course = steps_of(layered(0), n, noise_switching=1 / E, noise_size=0., settle=settle, l1_strength=.01)
    still = [all(torch.equal(w, b[name]) for name, w in a.items()) for a, b in zip(course, course[1:])]
    assert still == [not on_training_goal(step, n, E, settle) for step in range(1, n)]


def test_noise_has_its_size_and_spares_what_is_taken_away():
    a, b, *_ = steps_of(layered(0, 1, layers=(64, 64)), 8, noise_switching=.25, noise_size=.1, towers=1.)
    change = b['W_2'] - a['W_2']  # the first four steps are noise
    for rows, columns in tower_blocks((64, 64)): assert (b['W_2'][:, 0, rows, columns] == 0).all()
    assert change[change != 0].std().item() == pytest.approx(.1, rel=.05)
    assert not torch.equal(change[0], change[1])


def test_periods_of_noise_are_forgotten_by_the_optimizer():
    "What a batch says then is not heard later either: other patterns, the same network"
    def taught_with(goal):
        how = dict(noise_switching=.25, noise_size=.01)
        return steps_of(layered(0), 5, **how, **(dict(switching=.25, switch_to='near') if goal else {}))[3]
    assert all(torch.equal(w, taught_with(True)[name]) for name, w in taught_with(False).items())


def test_a_second_read_out_learns_or_while_the_first_learns_and():
    stack, data, how = layered(0, 1), load_dataset('retina'), CAUSES.settings(both_goals=1., n_pairs=256 * 600)
    for w in stack.weights.values(): w.requires_grad_()
    made, = acting(stack, how, 600)
    pairs = torch.arange(256).repeat(600).expand(2, 1, -1)
    optimizers = [optimizer for optimizer, _ in make_optimizers(stack, how)]
    with tqdm(disable=True) as bar: train_epoch(stack, data.train, pairs, how, optimizers, 1, bar, [made])
    x, shown = gather_batch(data.test, torch.arange(256)[None, None])
    h = last_state(stack.architecture, stack.weights, x)
    for weights, goal in ((stack.weights, 'and'), (made.second, 'or')):
        right = logits(weights, h)[:, 0].argmax(1) == RETINA.goal(goal).target(shown)
        assert (right.float().mean(1) > .97).all(), goal


def test_random_answers():
    "N2: as many ones as AND, other ones, always the same, and they can be learned by heart"
    labels = torch.arange(256)[:, None]
    answers, both = task_named('retina_random').target(labels), RETINA.target(labels)
    assert answers.sum() == both.sum() == 64 and 60 < (answers != both).sum() < 130
    assert torch.equal(answers.flip(0), RETINA_RANDOM.target(labels.flip(0))) and not RETINA_RANDOM.goals
    how = CAUSES.settings(task='retina_random', epochs=3, n_pairs=256 * 300, layers='64-64')
    with tqdm(disable=True) as bar:
        _, history = train(layered(0, layers=(64, 64)), load_dataset('retina'), how, bar=bar)
    assert history['accuracy'].iloc[-1] > .98


# effects

def invented(up, null_up=None, n=8, accuracy=1., learned=1.):
    "A sweep in which each variation raises every measure by `up`, its nulls by `null_up`, and training by `learned`"
    rng, rows = np.random.default_rng(0), []
    for variation, size in ({'baseline': 0.} | up).items():
        for seed in range(n):
            about = dict(variation=variation, seed=seed, dataset='retina')
            values = {'accuracy': accuracy, 'int': .1 + .1 * size, 'density': 1., 'weight_norm': 1.}
            for m, sign in MAPPED.items():
                values[m] = sign * (size + rng.normal(0, .05))
                for null in nulls_of(m):
                    values |= {f'{m}_{null}_mean': sign * (null_up or {}).get(variation, 0.), f'{m}_{null}_sd': .1}
            rows += [about | dict(trained=True, measure=m, value=v) for m, v in values.items()]
            rows += [about | dict(trained=False, measure=m, value=v - learned * MAPPED.get(m, 0))
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
                       'permuted_4', 'near_2', 'near_4', 'spectral_2', 'both_2', 'noise_settled_2', 'noise_settled_4',
                       'random_labels'], 1.)


def verdicts(table): return check_claims(CAUSES_CLAIMS, Evidence(table)).set_index('id')['verdict']


def test_claims_come_out_either_way():
    "a world in which every cause makes modules, and one in which none does anything"
    controls = [*SETTLED, 'shuffled_2', 'permuted_2', 'permuted_4', 'near_2', 'near_4', 'both_2', 'noise_settled_2',
                'noise_settled_4']
    yes = verdicts(invented(EVERY | dict.fromkeys(controls, 0.) | dict(random_labels=-1.)))
    no = verdicts(invented(dict.fromkeys(EVERY, -.5) | dict(random_labels=.5), learned=0.))
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
