"""One network, written as one writes it with PyTorch: the yardstick of the benchmark, and an oracle for the tests.

A module per sub-network, an item per pair of images, the paper's equation in a loop over time steps, an optimizer from
the library, and Deep-R on a dense matrix with a mask. Nothing is stacked, cached or fused.
"""

from collections.abc import Sequence
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from modspec.causes.deep_r import connection_rate
from modspec.core.data import Dataset, Digits, as_inputs
from modspec.core.sparsity import connection_count
from modspec.core.streams import generators
from modspec.core.tasks import draw_pairs, task_named
from modspec.networks.recurrent import Recurrent, sparsities
from modspec.networks.stack import Stack
from modspec.training.loop import n_epochs, pairs_per_epoch
from modspec.training.parameters import Parameters


class SubNetwork(nn.Module):
    "The dense layers of one sub-network"

    def __init__(self,
        architecture: Recurrent,  # Sizes
    ):
        super().__init__()
        N, B, C = architecture.n_hidden, architecture.n_bottleneck, architecture.n_classes
        self.ih, self.hh = nn.Linear(architecture.n_pixels, N), nn.Linear(N, N)
        if B: self.hb, self.br = nn.Linear(N, B), nn.Linear(B, C)
        else: self.hr = nn.Linear(N, C)

    def read_out(self,
        h: Tensor,  # Final state, shape (pairs, N)
    ) -> Tensor:  # Shape (pairs, classes)
        "What the sub-network says, through its bottleneck if it has one"
        return self.br(self.hb(h)) if hasattr(self, 'hb') else self.hr(h)


class Network(nn.Module):
    "Recurrent sub-networks joined by sparse interconnections (paper, section Architectures), messages inside tanh"

    def __init__(self,
        architecture: Recurrent,  # Sizes
        sparsity: float = 1.,  # Fraction p of active interconnections
        *, generator: torch.Generator | None = None,  # Source of the initial weights; by default of seed 0
    ):
        super().__init__()
        if architecture.message != 'inside': raise ValueError(f"message must be 'inside', got {architecture.message!r}")
        self.architecture, self.n_steps = architecture, architecture.n_steps
        S, N = architecture.n_subnetworks, architecture.n_hidden
        self.subnetworks = nn.ModuleList(SubNetwork(architecture) for _ in range(S))
        self.directions = list(permutations(range(S), 2))  # (receiver, sender)
        self.connections = nn.Parameter(torch.empty(len(self.directions), N, N))
        self.register_buffer('mask', torch.zeros(len(self.directions), N, N, dtype=torch.bool))
        generator = generator or torch.Generator().manual_seed(0)
        for mask in self.mask:
            mask.view(-1)[torch.randperm(N * N, generator=generator)[:connection_count(sparsity, N)]] = True
        with torch.no_grad():
            for weight in self.parameters(): weight.uniform_(-0.1, 0.1, generator=generator)
            self.connections.mul_(self.mask)

    @classmethod
    def from_stack(cls,
        stack: Stack,  # A stack of networks
        k: int,  # Which of them
    ) -> 'Network':
        "A copy of one network of a stack"
        network = cls(stack.architecture, sparsities(stack)[k]).to(stack.device)
        with torch.no_grad():
            for name, weights in stack.weights.items():
                if name == 'W_sparse': network.connections.copy_(weights[k])
                else:
                    kind, layer = name.split('_')
                    for n, subnetwork in enumerate(network.subnetworks):
                        linear = getattr(subnetwork, layer)
                        (linear.weight if kind == 'W' else linear.bias).copy_(weights[k, n])
            network.mask = network.connections != 0
        return network

    def named_weights(self) -> dict[str, Tensor]:
        "The weights by the names and in the shapes of one member of a `Stack`"
        layers = [name for name, _ in self.subnetworks[0].named_children()]
        found = {f'{kind}_{layer}': torch.stack([getattr(getattr(sub, layer), attribute) for sub in self.subnetworks])
                 for kind, attribute in [('W', 'weight'), ('b', 'bias')] for layer in layers}
        return found | {'W_sparse': self.connections}

    def dense_parameters(self) -> list[nn.Parameter]:
        "Everything but the interconnections"
        return list(self.subnetworks.parameters())

    def forward(self,
        images: Tensor,  # Shape (pairs, sub-networks, pixels)
    ) -> Tensor:  # Read-outs, shape (pairs, sub-networks, classes)
        "T time steps, then the read-outs of all sub-networks"
        h = [images.new_zeros(len(images), self.architecture.n_hidden) for _ in self.subnetworks]
        weights = self.connections * self.mask
        for _ in range(self.n_steps):
            total = [sub.ih(images[:, n]) + sub.hh(h[n]) for n, sub in enumerate(self.subnetworks)]
            for weight, (receiver, sender) in zip(weights, self.directions):
                total[receiver] = total[receiver] + F.linear(h[sender], weight)
            h = [torch.tanh(state) for state in total]
        return torch.stack([sub.read_out(state) for sub, state in zip(self.subnetworks, h)], 1)

    def decide(self,
        r: Tensor,  # Read-outs, shape (pairs, sub-networks, classes)
    ) -> Tensor:  # Shape (pairs, classes)
        "Competitive max decision: the sub-network with the largest value speaks for the network"
        largest = (r.abs() if self.architecture.decision == 'absolute' else r).amax(2)
        return r[torch.arange(len(r)), largest.argmax(1)]


class PairsOfImages(TorchDataset):
    "Pairs of images with the answer to the main task"

    def __init__(self,
        digits: Digits,  # Images and labels
        pairs: Tensor,  # Indices of images, shape (sub-networks, pairs)
        task: str = 'parity',  # As registered
    ):
        self.digits, self.pairs = digits, pairs
        self.targets = task_named(task).target(digits.labels[pairs.T])

    def __len__(self): return self.pairs.shape[1]

    def __getitem__(self, i):
        return as_inputs(self.digits.images[self.pairs[:, i]], self.digits.mean, self.digits.std), self.targets[i]


def load(
    digits: Digits,  # Images and labels
    pairs: Tensor,  # Indices of images, shape (sub-networks, pairs), which a draw has shuffled already
    parameters: Parameters,  # Batch size and task
) -> DataLoader:
    "Batches of pairs, without a last, smaller one"
    return DataLoader(PairsOfImages(digits, pairs, parameters.task), batch_size=parameters.batch_size, drop_last=True)


class PlainDeepR:
    "Deep-R on a dense matrix (Bellec et al. 2018; paper, section Training): constant signs, Adam, a walk, rewiring"

    def __init__(self,
        network: Network,  # Its interconnections are trained in place
        parameters: Parameters,  # Rates, walk and rewiring
        *, generator: torch.Generator,  # Source of signs, walk and births, on the network's device
    ):
        self.weight, self.mask = network.connections, network.mask
        self.generator, self.parameters = generator, parameters
        density = self.mask.double().mean().item()
        bounds = parameters.connection_lr_sparse, parameters.connection_lr_dense
        self.lr = connection_rate(density, self.mask.shape[-1], bounds=bounds)
        self.walk = parameters.walk * (1 - density)  # in learning rates
        drawn = torch.randint(2, self.mask.shape, generator=generator, device=self.mask.device) * 2. - 1
        self.sign = torch.where(self.mask, self.weight.detach().sign(), drawn)
        self.strength = self.weight.detach().abs()
        self.mean, self.square, self.age = (torch.zeros_like(self.strength) for _ in range(3))

    @torch.no_grad()
    def step(self) -> None:
        "Each active connection takes a step of Adam and of a random walk; where no strength is left it is replaced"
        p, beta = self.parameters, self.parameters.connection_beta
        gradient = self.weight.grad * self.sign * self.mask
        self.age += 1
        self.mean = beta * self.mean + (1 - beta) * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        adam = self.mean / (1 - beta**self.age) / ((self.square / (1 - 0.999**self.age)).sqrt() + 1e-8)
        noise = torch.randn(self.mask.shape, generator=self.generator, device=self.mask.device)
        self.strength += self.lr * (self.walk * noise - p.l1 - adam) * self.mask
        died = self.mask & (self.strength <= 0)
        if p.rewire: self.rewire(died)
        else: self.strength[died] = 1e-10
        self.weight.copy_(self.sign * self.strength)
        self.weight.grad = None

    def rewire(self,
        died: Tensor,  # bool, shape (directions, N, N)
    ) -> None:
        "In each direction as many connections are born as died, at random places that were dormant if there are enough"
        dormant = ~self.mask
        for d in died.flatten(1).any(1).nonzero().flatten().tolist():
            n_died = int(died[d].sum())
            places = torch.cat([self.shuffled(dormant[d]), self.shuffled(died[d])])[:n_died]
            self.mask[d][died[d]], self.strength[d][died[d]] = False, 0.
            self.mask[d].view(-1)[places], self.strength[d].view(-1)[places] = True, 1e-10
            for state in (self.mean, self.square, self.age): state[d].view(-1)[places] = 0.

    def shuffled(self,
        which: Tensor,  # bool
    ) -> Tensor:  # Indices into the flattened tensor
        "The places that are true, in random order"
        places = which.flatten().nonzero().flatten()
        return places[torch.randperm(len(places), generator=self.generator, device=places.device)]


def train_epoch(
    network: Network,  # Trained in place
    loader: DataLoader,  # The epoch's batches
    optimizer: torch.optim.Optimizer,  # Of the sub-networks
    deep_r: PlainDeepR,  # Of the interconnections
) -> tuple[float, float]:  # Mean loss and accuracy over the epoch
    "One pass over the pairs"
    losses, right = [], []
    for images, target in loader:
        optimizer.zero_grad()
        output = network.decide(network(images))
        loss = F.cross_entropy(output, target)
        loss.backward()
        optimizer.step()
        deep_r.step()
        losses.append(loss.item())
        right.append((output.argmax(1) == target).float().mean().item())
    return sum(losses) / len(losses), sum(right) / len(right)


def make_optimizers(
    network: Network,  # To train in place
    parameters: Parameters,  # Of both optimizers
    *, seed: int,  # Of the random walk
) -> tuple[torch.optim.Adadelta, PlainDeepR]:
    "Adadelta for the sub-networks, Deep-R for the interconnections (paper, Table 1)"
    generator, = generators([seed], 'plain walk', device=network.connections.device)
    adadelta = torch.optim.Adadelta(network.dense_parameters(), lr=parameters.lr, rho=parameters.rho)
    return adadelta, PlainDeepR(network, parameters, generator=generator)


def train_network(
    network: Network,  # Trained in place
    dataset: Dataset,  # What to train on, on the same device
    parameters: Parameters = Parameters(),  # How to train
    *, seed: int,  # Of pairs and random walk
) -> Sequence[tuple[float, float]]:  # Mean loss and accuracy of each epoch
    "Train one network on the main task"
    optimizer, deep_r = make_optimizers(network, parameters, seed=seed)
    stream, = generators([seed], 'plain pairs')
    history, digits = [], dataset.train
    n_pairs, S = pairs_per_epoch(dataset, parameters), network.architecture.n_subnetworks
    for _ in range(n_epochs(network.architecture, parameters)):
        pairs = draw_pairs(digits.labels.cpu(), n_pairs, generator=stream, n_subnetworks=S).to(network.mask.device)
        history.append(train_epoch(network, load(digits, pairs, parameters), optimizer, deep_r))
        for group in optimizer.param_groups: group['lr'] *= parameters.decay
        deep_r.lr *= parameters.connection_decay
    return history


@torch.no_grad()
def accuracy(
    network: Network,  # To test
    digits: Digits,  # Images and labels
    pairs: Tensor,  # Indices of images, shape (sub-networks, pairs)
    task: str = 'parity',  # As registered
) -> float:
    "How often the network is right"
    pairs_of_images = PairsOfImages(digits, pairs, task)
    images, targets = zip(*(pairs_of_images[i] for i in range(len(pairs_of_images))))
    return (network.decide(network(torch.stack(images))).argmax(1) == torch.stack(targets)).float().mean().item()
