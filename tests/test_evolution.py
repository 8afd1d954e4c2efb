"""Evolution under switching goals: networks against plain arithmetic, what a generation may change, nulls, verdicts"""
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modspec.core.retina import eyes, retina_pixels
from modspec.studies.causes.evolution import (
    N_NEURONS,
    RETINA_LAYERS,
    SECOND_GOAL,
    SLOTS,
    Evolution,
    appraisal,
    at_least,
    at_work,
    by_fitness,
    evolution_goals,
    evolve,
    genome_answers,
    goal_at,
    is_matched,
    mutated,
    neuron_slots,
    offspring,
    plot_evolution,
    random_genomes,
    share_right,
    words,
)
from modspec.studies.causes.evolved import (
    followed,
    genome_weights,
    last_points,
    normalized_q,
    plot_normalized_q,
    q_ceiling,
    reproduction,
    six_arms,
)

NUMBERS = torch.arange(256)
TINY = Evolution(population=40, elite=10, generations=100, epoch=10, every=5)
EVERYTHING = np.ones(256, dtype=bool)
both = pytest.mark.parametrize('cap', [True, False])


def genomes_of(cap, n=30, seed=0):
    return random_genomes(n, Evolution(cap=cap), rng=np.random.default_rng(seed))


def all_weights(genome, cap):
    "Matrices of a genome, one connection after the other, and its thresholds by layer"
    K, first, found = genome.shape[-1] // 2, 0, []
    for slots, size, units in zip(SLOTS[cap], RETINA_LAYERS, RETINA_LAYERS[1:]):
        W, genes = np.zeros((units, size), dtype=int), genome[first:first + units].astype(int)
        for unit, gene in enumerate(genes):
            for source, sign in zip(gene[:slots], gene[K:K + slots]):
                if source < size: W[unit, source] += -1 if sign else 1
        found.append((W, genes[:, -1]))
        first += units
    return found


def assert_legal(genomes, cap):
    "Sources in the layer below or none, slots beyond the cap empty, signs 0 or 1, thresholds in range"
    slots, below = neuron_slots(Evolution(cap=cap))
    K = genomes.shape[-1] // 2
    source, sign = genomes[..., :K], genomes[..., K:2 * K]
    assert (source >= 0).all() and (source <= below[:, None]).all() and np.isin(sign, [0, 1]).all()
    for neuron, n in enumerate(slots): assert (source[:, neuron, n:] == below[neuron]).all()
    assert (np.abs(genomes[..., -1]) <= 3).all()


# goals

def test_goals():
    "Counts, the two constant answers, and the network with one eye"
    goals = evolution_goals(rng=np.random.default_rng(3))
    assert [goals[name].sum() for name in ('and', 'or', 'permuted')] == [64, 192, 192]
    assert (goals['and'] != goals['or']).sum() == 128 and (goals['or'] != goals['permuted']).any()
    left, right = (words(eye.numpy()) for eye in eyes(NUMBERS))
    never, always = words(~EVERYTHING), words(EVERYTHING)
    found = [[appraisal(np.zeros((15, 7), np.int8), answers, goals)[name] for name in ('and', 'or', 'balanced')]
             for answers in (never, always, left, right)]
    assert np.allclose(found, [[.75, .25, .5], [.25, .75, .5], [.75, .75, 5 / 6], [.75, .75, 5 / 6]])


def test_permuted_goal_is_of_the_seed():
    one, same, other = (evolution_goals(rng=np.random.default_rng(seed))['permuted'] for seed in (0, 0, 1))
    assert (one == same).all() and (one != other).any()


@pytest.mark.parametrize('schedule', SECOND_GOAL)
def test_schedule(schedule):
    "AND exactly in even epochs (FG: always), and judged at the same generations whatever the schedule"
    settings = Evolution(schedule=schedule, epoch=20)
    for g in range(200):
        assert (goal_at(g, settings) == 'and') == (schedule == 'FG' or g // 20 % 2 == 0)
        assert is_matched(g, settings) == (g % 40 == 19)
        if is_matched(g, settings): assert goal_at(g, settings) == 'and'


# networks

@given(st.integers(1, 8), st.integers(-4, 12), st.integers(0, 2**32 - 1))
def test_at_least_counts(n, need, seed):
    bits = np.random.default_rng(seed).random((n, 256)) < .5
    assert (at_least(words(bits), np.array(need)) == words(bits.sum(0) >= need)).all()


@both
def test_answers_are_those_of_threshold_neurons(cap):
    genomes = genomes_of(cap)
    for genome, answers in zip(genomes, genome_answers(genomes, Evolution(cap=cap))):
        x = retina_pixels(NUMBERS).numpy().T.astype(int)
        for W, threshold in all_weights(genome, cap): x = (W @ x >= threshold[:, None]).astype(int)
        assert (words(x[0] == 1) == answers).all()


@both
def test_at_work_is_a_path_to_the_output(cap):
    for genome in genomes_of(cap):
        K, first = genome.shape[-1] // 2, [0, 8, 12, 14, 15]
        reached = {14}
        for layer in (3, 2, 1):
            for neuron in range(first[layer], first[layer + 1]):
                if neuron in reached:
                    reached |= {first[layer - 1] + s for s in genome[neuron, :K] if s < RETINA_LAYERS[layer]}
        assert set(np.flatnonzero(at_work(genome[None])[0])) == reached


@both
def test_weights_are_of_the_neurons_at_work(cap):
    for genome in genomes_of(cap):
        used = at_work(genome[None])[0]
        keep = [np.ones(8, dtype=bool), *np.split(used, [8, 12, 14])]
        for k, ((W, _), found) in enumerate(zip(all_weights(genome, cap), genome_weights(genome))):
            assert (found[0].numpy() == W[keep[k + 1]][:, keep[k]]).all()


def test_connections_from_one_neuron_add_up():
    genome = np.zeros((15, 7), dtype=np.int8)
    genome[:, :3] = neuron_slots(Evolution())[1][:, None]
    genome[14, :6], genome[12, :6], genome[8, :6] = [0, 0, 2, 1, 1, 0], [0, 0, 4, 0, 1, 0], [0, 8, 8, 0, 0, 0]
    assert [W[0].tolist() for W in genome_weights(genome)[1:]] == [[[1]], [[0]], [[-2]]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 256))
def test_share_right(seed, n):
    rng = np.random.default_rng(seed)
    answers, goal, asked = rng.random((3, 256)) < .5, rng.random(256) < .5, rng.permutation(256) < n
    found = share_right(words(answers), goal, asked)
    assert np.allclose(found, [(one == goal)[asked].mean() for one in answers])


# a generation

@both
def test_children_are_legal(cap):
    settings, rng = Evolution(cap=cap, mutation=1.), np.random.default_rng(0)
    genomes = random_genomes(600, settings, rng=rng)
    assert_legal(genomes, cap)
    for _ in range(20): genomes = offspring(genomes, settings, rng=rng)
    assert genomes.shape == (450, N_NEURONS, 2 * max(SLOTS[cap]) + 1) and genomes.dtype == np.int8
    assert_legal(genomes, cap)


@both
def test_a_mutation_changes_one_entry_at_most(cap):
    settings, before = Evolution(cap=cap, mutation=1.), genomes_of(cap, 3000)
    changed = (mutated(before.copy(), settings, rng=np.random.default_rng(1)) != before).sum((1, 2))
    assert set(changed) <= {0, 1} and changed.mean() > .7
    still = mutated(before.copy(), replace(settings, mutation=0.), rng=np.random.default_rng(1))
    assert (still == before).all()


def test_children_have_the_genes_of_their_parents():
    parents = genomes_of(True, 2)
    for crossover in (0., 1.):
        settings = Evolution(population=1000, elite=2, crossover=crossover, mutation=0.)
        children = offspring(parents, settings, rng=np.random.default_rng(0))
        of = (children[:, None] == parents).all(-1)  # (children, parents, genes)
        assert of.any(1).all()
        assert of.all(-1).any(1).mean() == (1. if crossover == 0 else pytest.approx(.5, abs=.1))


def test_order_of_fitness():
    "More right first; the penalty counts neurons beyond 13; chance among equals"
    genomes = genomes_of(False, 400)
    working = at_work(genomes).sum(1)
    full, lean = genomes[working == 15][0], genomes[working <= 13][0]
    def order(right, *genomes): return by_fitness(np.stack(genomes), np.array(right), rng=np.random.default_rng(0))
    assert order([.5, .6], lean, lean)[0] == 1
    assert order([.51, .5], full, lean)[0] == 1 and order([.53, .5], full, lean)[0] == 0
    rng, twins = np.random.default_rng(0), np.stack([lean, lean])
    assert {by_fitness(twins, np.array([.5, .5]), rng=rng)[0] for _ in range(20)} == {0, 1}


# runs

@pytest.mark.parametrize('schedule', SECOND_GOAL)
def test_a_run(schedule):
    settings = replace(TINY, schedule=schedule)
    history, champions = evolve(settings, seed=1)
    assert history['generation'].tolist() == [*range(4, 100, 5)]
    assert np.isfinite(history.select_dtypes('number')).all(axis=None)
    ends = history[history['matched']]
    assert ends['generation'].tolist() == [9, 29, 49, 69, 89] and (ends['goal'] == 'and').all()
    assert_legal(champions, True)
    goals = evolution_goals(rng=np.random.default_rng(1).spawn(4)[1])
    for (_, row), genome, answers in zip(ends.iterrows(), champions, genome_answers(champions, settings)):
        assert appraisal(genome, answers, goals) == row[['and', 'or', 'balanced', 'neurons']].to_dict()


def test_what_is_best_stays():
    "Under a fixed goal fitness never falls: the elite is unchanged and so is the environment"
    history, _ = evolve(replace(TINY, schedule='FG', every=1), seed=2)
    fitness = history['best'] - .01 * (history['neurons'] - 13).clip(lower=0)
    assert (fitness.diff().dropna() > -1e-12).all()


def test_one_seed_one_run():
    (one, genomes), (same, others), (other, _) = (evolve(TINY, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, same)
    assert (genomes == others).all() and not one.equals(other)


def test_schedules_of_a_seed_begin_alike():
    fixed, switching, random = (evolve(replace(TINY, schedule=schedule), seed=0)[0] for schedule in SECOND_GOAL)
    pd.testing.assert_frame_equal(fixed[:2], switching[:2])
    pd.testing.assert_frame_equal(fixed[:2], random[:2])


def test_networks_learn():
    settings = Evolution(schedule='FG', cap=False, population=200, elite=50, generations=400, patterns=256)
    history, _ = evolve(settings, seed=0)
    last = history.iloc[-1]
    assert last['best'] == last['and'] > .8


@pytest.mark.parametrize('settings, words', [
    (dict(schedule='mvg'), 'schedule'), (dict(cap=1), 'cap'), (dict(population=1), 'population'),
    (dict(elite=600), 'elite'), (dict(elite=0), 'elite'), (dict(crossover=1.1), 'crossover'),
    (dict(mutation=-.1), 'mutation'), (dict(mutation=float('nan')), 'mutation'), (dict(epoch=0), 'epoch'),
    (dict(generations=19), 'generations'), (dict(patterns=257), 'patterns'), (dict(every=3), 'every'),
    (dict(every=40), 'every')])
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words): Evolution(**settings)


def test_bad_seeds_are_refused():
    for seed in (-1, .5):
        with pytest.raises(ValueError, match='seed'): evolve(TINY, seed=seed)
    with pytest.raises(ValueError, match='points'): followed(TINY, 0, points=1)


# modularity

def split_network():
    return [torch.block_diag(torch.ones(2, 4), torch.ones(2, 4))[None], torch.block_diag(*[torch.ones(1, 2)] * 2)[None]]


def test_two_networks_side_by_side_are_modular():
    found = normalized_q(split_network(), seed=0, draws=30, climbs=1, steps=50)
    assert found['q'] == pytest.approx(.5) and found['q_layer_p'] == pytest.approx(1 / 31, abs=.04)
    assert found['q_m'] > .8 and found['q_ceiling'] >= found['q'] > found['q_layer_mean']


def test_a_network_that_cannot_be_shuffled_has_no_q_m():
    found = normalized_q([torch.ones(1, 3, 4), torch.ones(1, 2, 3)], seed=0, draws=5, climbs=1, steps=5)
    assert found['q_m'] == 0 and found['q_layer_p'] == 1


def test_no_connections():
    found = normalized_q([torch.zeros(1, 0, 8), torch.zeros(1, 1, 0)], seed=0, draws=3, climbs=1, steps=5)
    assert found['q'] == found['q_m'] == found['q_ceiling'] == 0


def test_ceiling():
    "Not below where it began, the same for the same seed, and its input is left alone"
    weights = genome_weights(genomes_of(True, 1)[0])
    before = [W.clone() for W in weights]
    short, long, again = (q_ceiling(weights, seed=0, steps=steps) for steps in (0, 60, 60))
    assert short <= long == again < 1
    for W, old in zip(weights, before): assert torch.equal(W, old)


# the comparison

def invented(**q):
    "A table with three runs in each arm; `q` are their Q_m by schedule, with the cap"
    return pd.DataFrame([
        dict(schedule=schedule, cap=cap, seed=seed, generation=g, q_m=(q.get(schedule, .1) if cap else .1) + seed / 100,
             q_layer_p=.01, adapted=3, solved=1000. if schedule == 'MVG' else np.inf, q_layer_sd=.02, q_ceiling=.6,
             q_layer_mean=.4)
        for cap in (True, False) for schedule in SECOND_GOAL for seed in range(3) for g in (9, 19)])


def test_verdicts():
    found = reproduction(invented(MVG=.3)).set_index('rule')
    assert (found['holds'] == 'yes').all() and found.loc['sooner', 'value'] == 0
    chance = reproduction(invented()).set_index('rule')['holds']
    assert chance['more modular'] == chance['needs scarcity'] == chance['needs shared questions'] == 'no'
    never = reproduction(invented(MVG=.3).assign(solved=np.inf)).set_index('rule')['holds']
    assert never['sooner'] == 'open' and never['more modular'] == 'yes'


def test_the_last_judged_generation_counts():
    table = invented(MVG=.3)
    table.loc[table['generation'] == 9, 'q_m'] = -1.
    assert np.allclose(last_points(table.sample(frac=1, random_state=0), 'q_m', 'MVG'), [.3, .31, .32])


def test_too_few_runs_are_refused():
    table = invented()
    with pytest.raises(ValueError, match='3 runs, got 2'): reproduction(table[table['seed'] < 2])
    with pytest.raises(ValueError, match='got 0'): reproduction(table[table['cap']])


def test_six_arms():
    table = six_arms(TINY, seeds=[0], points=2, draws=3, climbs=1, steps=5)
    assert len(table) == 12
    assert np.isfinite(table.drop(columns='solved').select_dtypes('number')).all(axis=None)
    assert {*zip(table['cap'], table['schedule'])} == {(cap, s) for cap in (True, False) for s in SECOND_GOAL}
    one = followed(replace(TINY, schedule='RVG'), 0, points=2, draws=3, climbs=1, steps=5)
    arm = table[table['cap'] & (table['schedule'] == 'RVG')].reset_index(drop=True)
    pd.testing.assert_frame_equal(arm, one.reset_index(drop=True))


def test_pictures_are_drawn_on_the_axes_given():
    history, _ = evolve(TINY, seed=0)
    fig, axes = plt.subplots(1, 2)
    assert plot_evolution(history, axes[0]) is axes[0] and plot_normalized_q(invented(), axes[1]) is axes[1]
    assert all(ax.lines for ax in axes)
    fig.canvas.draw()
    plt.close(fig)
