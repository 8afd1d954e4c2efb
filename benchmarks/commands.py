"""What is measured from outside: how soon a command answers, how long a sweep takes, and where its time goes"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.clock import alternate, seconds_of, spread
from modspec.core.data import load_dataset
from modspec.core.files import read_manifest
from modspec.engine.collect import circumstances_of
from modspec.engine.config import load_config
from modspec.engine.identity import as_recorded
from modspec.engine.plan import RunConfig
from modspec.engine.store import codes
from modspec.studies.extreme_sparsity.config import ARCHITECTURES
from modspec.training.loop import pairs_per_epoch

ROOT = Path(__file__).parent.parent.absolute()
Rows = list[dict]
STAGES = 'training', 'weight_mask', 'correlation', 'bottleneck', 'other'


def cell(
    name: str,  # One of `cells.CELLS`
    threads: int,  # CPU threads
    device: str,  # Where to compute
    **settings,  # Its other arguments
) -> Rows:
    "Measure in a process of its own, which has its number of threads from the start"
    command = [sys.executable, '-m', 'benchmarks.cells', name, str(threads), json.dumps(settings | dict(device=device))]
    env = os.environ | {'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads), 'TQDM_DISABLE': '1'}
    answer = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    if answer.returncode: raise RuntimeError(f'the measurement "{name}" failed, with settings {settings}')
    return json.loads(answer.stdout.splitlines()[-1])


def call(
    *command: object,  # A command line
) -> None:
    "Run a command, on one thread; its output is shown only if it fails"
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    answer = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True)
    if answer.returncode: raise RuntimeError(f'{command} failed: {answer.stdout}{answer.stderr}')


def modspec(*arguments: object) -> None:
    "The command, as installed beside this Python"
    call(Path(sys.executable).with_name('modspec'), *arguments)


def startup(config: Path, device: str, rounds: int) -> Rows:
    "Time until commands answer; of `modspec run`, all of its time but that of computing"
    computing, (name,) = [], load_config(config).runs()
    def tiny_run():
        with TemporaryDirectory() as folder:
            modspec('run', '--config', config, '--name', name, '--out', folder, '--device', device)
            computing.append(circumstances_of(read_manifest(folder))['seconds']['total'])
    work = {'python': partial(call, sys.executable, '-c', 'pass'),
            'import torch': partial(call, sys.executable, '-c', 'import torch'),
            'modspec --help': partial(modspec, '--help'), 'modspec run': tiny_run}
    found = alternate({name: partial(seconds_of, do) for name, do in work.items()}, rounds)
    found['modspec run, start-up'] = found['modspec run'] - np.array(computing)
    return [dict(device=device, command=name, **spread(values, 'seconds')) for name, values in found.items()]


def stages(
    runs: list[dict],  # Circumstances of runs
) -> dict[str, float]:  # Seconds by name of `STAGES`, and 'total'
    "Where the time of several runs went, all of them together"
    found = {name: sum(run['seconds'].get(name, 0.) for run in runs) for name in (*STAGES, 'total')}
    return found | dict(other=found['total'] - sum(found[name] for name in STAGES))


def row(
    config: Path,  # A sweep's YAML file
    how: str,  # Where the seconds come from
    device: str,  # Where its runs compute
    runs: int,  # Number of runs
    seconds: dict[str, float],  # From `stages`, over all runs
    starting: float,  # What processes spent otherwise, such as on starting, over all runs
) -> dict:
    "A row of the table"
    sweep, cores = load_config(config), os.cpu_count()
    networks = sum(len(run.networks) * len(ARCHITECTURES[run.settings.architecture]) for run in sweep.runs().values())
    return dict(config=config.name, how=how, device=device, cores=cores, runs=runs, networks=networks,
                **{f'{name}_s': seconds[name] for name in STAGES}, starting_s=starting,
                wall_s=(seconds['total'] + starting) / cores)


def measured(
    config: Path,  # A sweep's YAML file
    device: str,  # Where its runs compute
) -> dict:
    "Compute a sweep in a temporary folder"
    sweep = load_config(config)
    with TemporaryDirectory() as folder:
        wall = seconds_of(partial(modspec, 'sweep', config, '--out', folder, '--device', device))
        runs = [circumstances_of(read_manifest(path)) for path in sweep.folders(folder)]
    seconds = stages(runs)
    return row(config, 'measured', device, len(runs), seconds, os.cpu_count() * wall - seconds['total'])


def projected(
    config: Path,  # A sweep's YAML file
    device: str,  # Where its runs compute
    n_pairs: tuple[int, int],  # Two small numbers of pairs per epoch
    per_run: float,  # Seconds to start a run, and to wait for others
) -> dict:
    """Time of a sweep from a small part of it.

    As many of its runs as there are cores, of sparsities from the first to the last, at the same time and on one thread
    each, with two small numbers of pairs per epoch. A line through the two gives the time of each stage at the sweep's
    own number of pairs; all runs are taken to be like these on average.
    """
    sweep, cores = load_config(config), os.cpu_count()
    runs = list(sweep.runs().values())
    chosen = [runs[round(i)] for i in np.linspace(0, len(runs) - 1, cores)]
    with ThreadPoolExecutor(cores) as pool:
        rows = [found for part in pool.map(lambda run: run_cell(run, device, n_pairs), chosen) for found in part]
    few, many = (stages([found for found in rows if found['n_pairs'] == n]) for n in n_pairs)
    whole = pairs_per_epoch(load_dataset(sweep.settings.dataset), sweep.settings)
    reach = (whole - n_pairs[0]) / (n_pairs[1] - n_pairs[0])
    seconds = {name: (few[name] + reach * (many[name] - few[name])) * len(runs) / cores for name in few}
    return row(config, 'projected', device, len(runs), seconds, per_run * len(runs))


def run_cell(run: RunConfig, device: str, n_pairs: tuple[int, int]) -> Rows:
    "Seconds of each stage of one run, measured in a process of its own"
    return cell('run', 1, device, record=as_recorded(run), n_pairs=n_pairs)


def sweep(whole: Path | None, project: Path, device: str, n_pairs: tuple[int, int], finished: Path) -> Rows:
    "A whole sweep if one is named, another one projected, and what the finished results of that one say"
    rows = [measured(whole, device)] if whole else []
    per_run = rows[0]['starting_s'] / rows[0]['runs'] if rows else 0.
    rows.append(projected(project, device, n_pairs, per_run))
    if finished.is_file():
        manifest = json.loads(finished.read_text())
        runs = list(manifest['runs'].values())
        today = codes(next(iter(load_config(project).runs().values())))
        other = {part for part, found in manifest['codes'].items() if {*found} - {today.get(part), 'converted'}}
        how = 'finished results, of other code' if other else 'finished results'
        rows.append(row(project, how, runs[0]['device'], len(runs), stages(runs), per_run * len(runs)))
    return rows
