"""Measure how fast modspec is on this machine: `python -m benchmarks.bench`

Each section writes one table to `benchmarks/results/`, which the chapters nbs/speed.ipynb and
nbs/speed_studies.ipynb read. Common columns are `device`, `threads` and `architecture`; `networks` is the size M of the
stack. What is measured is the median of several rounds, with its quartiles in `_q25` and `_q75`. What is
compared is measured in turn, round by round, in one process.

- machine.csv: batched matrix products. `gflops` of `batch` times (`rows`, `inner`) by (`inner`, `columns`), of which
  `per_step` are in one step of training; `precision` is fp32 or bf16 (of factors and product).
- training.csv: `step_s` per step of `batch_size` pairs for each network, and `draw_s` to draw an epoch's pairs;
  `network_epochs_per_s` follows. `gflops` counts the operations the mathematics needs (benchmarks/operations.py), and
  `fraction` is its share of `gflops_largest`, the fastest fp32 product measured beside it, while `fraction_full` counts
  interconnections as full matrices. `gflops_own` is the rate over the products of one step, which take `products_s`.
  `speedup` is relative to fp32.
- reference.csv: `step_s` of the stack, `plain_s` of the plain network (benchmarks/reference.py), of which `loader_s`
  is for collecting its batch. `ratio` compares them per network, `ratio_without_loader` grants the plain one a free
  loader, and `ceiling` would be the ratio if training did nothing but its operations, at `gflops_largest` (of fp32).
  The plain network is always fp32.
- metrics.csv: `seconds` of each `stage` for all networks, a metric measured once, training for all its epochs.
- memory.csv: `peak_mb` of a process, of which it had `start_mb` before any network; `device_mb` on a GPU.
- startup.csv: `seconds` until a `command` is done.
- scaling.csv: `seconds` of a `unit` (step, epoch) against the `value` of a `variable`; `relative` to the value `base`.
- sweep.csv: seconds of the stages, summed over the runs of a sweep, `starting_s` that processes spent otherwise, and
  `wall_s` of the whole on all cores; `how` says whether it was measured.
- causes.csv: what the study of causes needs; `value`, in the `unit` seconds unless another is named, of `what` in
  a `part` of it, for so many `networks`; `how` says what was measured and what was projected from it. Parts that end
  in "each" are per network, over all stages and architectures; those that end in "whole" are sweeps.

machine.json says where and when each of the tables was made.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmarks import causes as costs
from benchmarks import commands
from benchmarks.cells import MEASURED_ON
from benchmarks.commands import ROOT, Rows, cell

ARCHITECTURES = 'standard', 'bottleneck'


@dataclass(frozen=True)
class Plan:
    "What to measure, and how thoroughly"
    quick: bool = False  # Small numbers?
    dataset: str = 'mnist'  # What to train on
    device: str = 'cpu'  # Where to compute
    threads: tuple[int, ...] = (1, 2)  # Numbers of CPU threads
    seconds: float = 1.  # About how long one measurement takes
    rounds: int = 5  # How often each is made
    long_rounds: int = 3  # The same for what takes long: whole metrics, whole epochs, commands
    precisions: tuple[str, ...] = ('fp32', 'bf16')  # The first is what others are compared with
    networks: tuple[int, ...] = (1, 4, 10, 20, 50, 100)  # Sizes of the stack
    reference_networks: tuple[int, ...] = (1, 10, 50)  # The same, against the plain network
    memory_networks: tuple[int, ...] = (1, 10, 50, 100)  # The same, for memory
    memory_stages: tuple[str, ...] = ('training', *MEASURED_ON)
    base_networks: int = 10  # Where the size is not varied
    n_pairs: int = 0  # Pairs per epoch of the metrics; 0: as many as a run has
    pairs: tuple[int, ...] = (4000, 8000, 16_000, 32_000)  # Ladders of the section scaling
    N: tuple[int, ...] = (50, 100, 200, 400)
    T: tuple[int, ...] = (2, 5, 10, 20)
    p: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 0.1, 1.)
    config: str | None = 'config/extreme_sparsity/quick.yaml'  # A sweep to compute, if any
    project: str = 'config/extreme_sparsity/paper.yaml'  # A sweep whose time is projected
    project_pairs: tuple[int, int] = (6400, 12_800)  # From runs with so many pairs per epoch
    causes_retina: str = 'config/causes/retina.yaml'  # A sweep of which two stacks are computed
    causes_digits: str = 'config/causes/digits.yaml'  # A sweep whose time is projected, as above
    causes_layers: tuple[tuple[int, ...], ...] = ((64, 64), (256, 256, 256, 256))  # Networks whose graphs are cut
    causes_graphs: int = 3  # Graphs of each
    causes_reproduced: str | None = 'config/causes/quick.yaml'  # A sweep to reproduce, if any
    modules_config: str = 'config/upstream_downstream/base.yaml'  # A sweep whose first networks are measured
    modules_images: int = 10_000  # Test images that they are shown
    modules_hessians: int = 1000  # The same, for the double backward


QUICK = Plan(quick=True, dataset='digits', threads=(1,), seconds=0.05, rounds=2, long_rounds=1, networks=(1, 3),
             reference_networks=(2,), memory_networks=(2,), base_networks=2, n_pairs=1280, pairs=(640, 1280),
             N=(50, 100), T=(2, 5), p=(0.01, 1.), memory_stages=('training', 'weight_mask'), config=None,
             project='benchmarks/tiny.yaml', project_pairs=(640, 1280), causes_layers=((8, 8),), causes_graphs=2,
             causes_retina='benchmarks/tiny_causes.yaml', causes_digits='benchmarks/tiny_pairs.yaml',
             causes_reproduced=None, modules_config='config/upstream_downstream/smoke.yaml', modules_images=100,
             modules_hessians=50)


def machine(plan: Plan) -> Iterator[Rows]:
    "Rates of batched matrix products"
    for threads in plan.threads:
        yield cell('machine', threads, plan.device, dataset=plan.dataset, networks=plan.base_networks,
                   seconds=plan.seconds / 5, rounds=plan.rounds, precisions=plan.precisions)


def training(plan: Plan) -> Iterator[Rows]:
    "Throughput of training, and its share of the machine's rate"
    for threads in plan.threads:
        yield cell('training', threads, plan.device, dataset=plan.dataset, architectures=ARCHITECTURES,
                   networks=plan.networks, seconds=plan.seconds, rounds=plan.rounds, precisions=plan.precisions)


def reference(plan: Plan) -> Iterator[Rows]:
    "The same work by a plain single network"
    for threads in plan.threads:
        yield cell('plain', threads, plan.device, dataset=plan.dataset, architectures=ARCHITECTURES,
                   networks=plan.reference_networks, seconds=plan.seconds, rounds=plan.rounds,
                   precisions=plan.precisions)


def metrics(plan: Plan) -> Iterator[Rows]:
    "Time of each metric"
    for threads in plan.threads:
        yield cell('metrics', threads, plan.device, dataset=plan.dataset, networks=plan.base_networks,
                   n_pairs=plan.n_pairs, seconds=plan.seconds, rounds=plan.long_rounds)


def memory(plan: Plan) -> Iterator[Rows]:
    "Peak memory against the size of the stack"
    for stage in plan.memory_stages:
        for M in plan.memory_networks:
            yield cell('memory', max(plan.threads), plan.device, dataset=plan.dataset, stage=stage, networks=M,
                       n_pairs=plan.n_pairs)


def startup(plan: Plan) -> Iterator[Rows]:
    "How soon commands answer"
    yield commands.startup(ROOT / 'benchmarks' / 'tiny.yaml', plan.device, plan.long_rounds)


def scaling(plan: Plan) -> Iterator[Rows]:
    "Time against M, the number of pairs, N, T and p"
    bases = dict(M=plan.base_networks, pairs=plan.pairs[-1], N=100, T=5, p=0.01)
    ladders = dict(M=plan.networks, pairs=plan.pairs, N=plan.N, T=plan.T, p=plan.p)
    yield cell('scaling', plan.threads[0], plan.device, dataset=plan.dataset, bases=bases, seconds=plan.seconds,
               ladders={name: sorted({*values, bases[name]}) for name, values in ladders.items()}, rounds=plan.rounds,
               long_rounds=plan.long_rounds)


def sweep(plan: Plan) -> Iterator[Rows]:
    "Time of a whole sweep, and a projection of the paper's"
    finished = ROOT / 'results' / Path(plan.project).stem / 'manifest.json'
    whole = ROOT / plan.config if plan.config else None
    yield commands.sweep(whole, ROOT / plan.project, plan.device, plan.project_pairs, finished)


def causes(plan: Plan) -> Iterator[Rows]:
    "Time and memory of the study of causes, of its clusterings and of its pairs of digits"
    found = [costs.clusterings(plan.causes_layers, plan.causes_graphs, plan.device),
             costs.retina(ROOT / plan.causes_retina, plan.device),
             costs.digit_pairs(ROOT / plan.causes_digits, plan.device, plan.project_pairs)]
    if plan.causes_reproduced: found.append(costs.reproduce(ROOT / plan.causes_reproduced, plan.device))
    yield [dict(device=plan.device, threads=1, **row) for rows in found for row in rows]


def modules(plan: Plan) -> Iterator[Rows]:
    "Time and memory of units that function alike: associations, modules, their agreement, and training"
    config = str(ROOT / plan.modules_config)
    yield cell('alike', 1, plan.device, config=config, images=plan.modules_images, hessians=plan.modules_hessians,
               rounds=plan.long_rounds)
    yield cell('epochs', 1, plan.device, config=config, rounds=plan.long_rounds)


SECTIONS = {section.__name__: section for section in
            (machine, training, reference, metrics, memory, startup, scaling, sweep, causes, modules)}


def about(plan: Plan, load: float) -> dict:
    "Where and when, how thoroughly, and how busy the machine was before"
    import torch
    info = Path('/proc/cpuinfo')
    names = [line.split(':')[1].strip() for line in info.read_text().splitlines() if line.startswith('model name')] \
        if info.exists() else []
    device = torch.cuda.get_device_name(plan.device) if plan.device != 'cpu' else 'cpu'
    return dict(processor=names[0] if names else platform.processor(), cores=os.cpu_count(), device=device,
                vector_unit=torch.backends.cpu.get_cpu_capability(), torch=torch.__version__,
                modspec=version('modspec'), python=platform.python_version(), date=date.today().isoformat(),
                load=round(load, 2), plan=asdict(plan))


def origins(
    path: Path,  # Of machine.json
    made: list[str],  # Tables that are new
    new: dict,  # From `about`
) -> list[dict]:  # One entry for all tables that were made together
    "Where and when each table was made; tables of other sections keep their origin"
    old = json.loads(path.read_text()) if path.is_file() else []
    kept = [one | dict(tables=[name for name in one['tables'] if name not in made]) for one in old]
    return [one for one in kept if one['tables']] + [dict(tables=made) | new]


def show(
    rows: Rows,  # Rows of a table
) -> str:
    "An aligned table, without the quartiles"
    table = pd.DataFrame(rows)
    shown = table[[name for name in table if name[-4:] not in ('_q25', '_q75')]]
    return shown.to_string(index=False, float_format='{:.4g}'.format)


def counted(text: str) -> tuple[int, ...]:
    "Whole numbers from 1, separated by commas"
    try: numbers = tuple(int(part) for part in text.split(','))
    except ValueError: numbers = ()
    if not numbers or min(numbers) < 1: raise typer.BadParameter(f'give whole numbers such as 1,2, not {text!r}')
    return numbers


def main(
    sections: Annotated[list[str] | None, typer.Argument(
        help=f'Which tables to make; by default all: {", ".join(SECTIONS)}')] = None,
    device: Annotated[str, typer.Option(help='cpu, cuda or cuda:N')] = 'cpu',
    threads: Annotated[str | None, typer.Option(metavar='N,N', help='Numbers of CPU threads; by default 1,2')] = None,
    quick: Annotated[bool, typer.Option('--quick', help='Everything with small numbers, on the embedded digits, in '
                                        'under a minute; its tables mean nothing, and go to results/bench')] = False,
    seconds: Annotated[float | None, typer.Option(help='About how long one measurement takes')] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help='How often each is made')] = None,
    out: Annotated[Path | None, typer.Option(help='Folder of the tables; by default benchmarks/results')] = None,
) -> None:
    """
    Measure how fast modspec is on this machine, on MNIST (see MODSPEC_DATA).

    Without arguments it makes every table of the chapter "How fast", in about half an hour: leave the machine alone
    meanwhile. Name sections to make only their tables, such as: python -m benchmarks.bench training scaling
    """
    for name in sections or []:
        if name not in SECTIONS: raise typer.BadParameter(f'a section is one of {", ".join(SECTIONS)}, not {name!r}')
    changes = dict(device=device, threads=counted(threads) if threads else None, seconds=seconds, rounds=rounds)
    plan = replace(QUICK if quick else Plan(), **{name: value for name, value in changes.items() if value is not None})
    out = out or ROOT / ('results/bench' if quick else 'benchmarks/results')
    out.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    if load > 0.3:
        typer.echo(f'The machine is busy (load {load:.1f}): numbers for several threads will mean little', err=True)
    for name in sections or SECTIONS:
        start = time.perf_counter()
        rows = [row for part in SECTIONS[name](plan) for row in part]
        pd.DataFrame(rows).to_csv(out / f'{name}.csv', index=False, float_format='%.6g')
        print(f'\n{name}: {SECTIONS[name].__doc__} ({time.perf_counter() - start:.0f} s)\n{show(rows)}', flush=True)
    file = out / 'machine.json'
    file.write_text(json.dumps(origins(file, [*(sections or SECTIONS)], about(plan, load)), indent=1) + '\n')


if __name__ == '__main__': typer.run(main)
