"""Measuring: alternate what is compared, leave out the warm-up, keep the spread, wait for the device"""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.operations import Product
from modspec.core.data import Dataset
from modspec.networks.stack import Stack
from modspec.training.loop import n_training_steps, train
from modspec.training.parameters import Parameters


def now(
    device: str | torch.device = 'cpu',  # Where work is under way
) -> float:  # Seconds
    "The time when all work given to the device is done"
    if torch.device(device).type == 'cuda': torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(
    work: Callable[[], object],  # What to do
    device: str | torch.device = 'cpu',  # Where it is done
) -> float:
    "How long it takes"
    start = now(device)
    work()
    return now(device) - start


def alternate(
    work: dict[str, Callable[[], float]],  # Measurements by name; each gives back seconds
    rounds: int,  # How often each is made
) -> dict[str, np.ndarray]:  # Seconds by name, one per round
    "A, B, C, A, B, C, …: what is compared meets the same weather on a machine that others use too"
    found = [{name: measure() for name, measure in work.items()} for _ in range(rounds)]
    return {name: np.array([row[name] for row in found]) for name in work}


def spread(
    values: Sequence[float],  # Repeated measurements
    name: str,  # Prefix of the columns
) -> dict[str, float]:
    "Median and quartiles"
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {name: median, f'{name}_q25': low, f'{name}_q75': high}


class StepClock:
    "Stands in for the progress bar of a training, and times the steps after a warm-up"

    def __init__(self,
        warm_up: int,  # Steps that are not timed
        total: int,  # Steps in all
        device: torch.device,  # Where training runs
    ):
        self.warm_up, self.total, self.device, self.n, self.marks = warm_up, total, device, 0, []

    def update(self, n: int = 1) -> None:
        "Advance by n steps"
        before, self.n = self.n, self.n + n
        for mark in (self.warm_up, self.total):
            if before < mark <= self.n: self.marks.append((self.n, now(self.device)))

    @property
    def seconds_per_step(self) -> float:
        (first, start), (last, end) = self.marks
        return (end - start) / (last - first)


def seconds_per_step(
    stack: Stack,  # Networks, which stay as they are
    dataset: Dataset,  # What to train on
    parameters: Parameters,  # How to train
    n_steps: int,  # Steps to time
    warm_up: int = 10,  # Steps before
) -> float:
    "Time of one step of `modspec.training.train`, by its own progress bar; drawing the pairs is not in it"
    one_epoch = replace(parameters, epochs=1, bottleneck_epochs=1, n_pairs=(warm_up + n_steps) * parameters.batch_size)
    clock = StepClock(warm_up, n_training_steps(dataset, stack.architecture, one_epoch), stack.device)
    train(stack, dataset, one_epoch, bar=clock)
    return clock.seconds_per_step


def calibrated(
    measure: Callable[[int], float],  # Seconds per repetition, for so many repetitions
    seconds: float,  # About how long one measurement may take
    *, least: int = 5,  # Repetitions at least
) -> Callable[[], float]:
    "The measurement with a number of repetitions that fits the time; the first, short one warms up"
    return partial(measure, int(np.clip(seconds / measure(least), least, 2000)))


def training_clock(
    stack: Stack,  # Networks
    dataset: Dataset,  # What to train on
    parameters: Parameters,  # How to train
    seconds: float,  # About how long one measurement may take
) -> Callable[[], float]:
    "A measurement of the seconds per step"
    return calibrated(partial(seconds_per_step, stack, dataset, parameters), seconds)


def product_clock(
    product: Product,  # What to multiply
    device: str,  # Where
    seconds: float,  # About how long one measurement may take
    dtype: torch.dtype = torch.float32,  # Of factors and product
) -> Callable[[], float]:
    "A measurement of the seconds of one batched matrix product"
    generator = torch.Generator(device).manual_seed(0)
    _, batch, rows, inner, columns, _ = product
    def random(*shape): return torch.randn(shape, device=device, generator=generator).to(dtype)
    left, right, out = random(batch, rows, inner), random(batch, inner, columns), random(batch, rows, columns)
    def repeat(n):
        for _ in range(n): torch.bmm(left, right, out=out)
    return calibrated(lambda n: seconds_of(lambda: repeat(n), device) / n, seconds, least=2)


def peak_memory() -> float:  # MB
    """The largest memory this process has held.

    The kernel's `VmHWM` where there is one: `getrusage`'s maximum is handed down by the process that started this one.
    """
    status = Path('/proc/self/status')
    if status.exists(): return int(status.read_text().split('VmHWM:')[1].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == 'darwin' else 1e3)
