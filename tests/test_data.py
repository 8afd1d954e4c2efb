"""Pairs, tasks and streams for any labels, and MNIST files that are not what they should be"""
import copy
import hashlib
import itertools
import math
import os
from collections import Counter
from pathlib import Path
from urllib.error import URLError

import numpy as np
import platformdirs
import pytest
import torch
import torchvision.datasets
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from modspec.core import data, mnist
from modspec.core.data import Dataset, Digits, as_inputs, load_dataset, load_mnist, load_mnist_2000
from modspec.core.mnist import DatasetError, data_root
from modspec.core.streams import generators
from modspec.core.tasks import (
    admissible,
    default_n_pairs,
    draw_pairs,
    held_out_pairs,
    parity_sentence_target,
    parity_target,
)

ROOT = Path(__file__).resolve().parent.parent
DIGITS = load_dataset('digits')
ALL_PAIRS = list(itertools.product(range(10), repeat=2))
ADMISSIBLE = [(d0, d1) for d0, d1 in ALL_PAIRS if d0 != d1 and d1 != (d0 + 1) % 10]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# pairs

def test_admissible_over_all_combinations():
    "The 80 combinations balance parities, digits and answers"
    assert [pair for pair in ALL_PAIRS if admissible(torch.tensor(pair))] == ADMISSIBLE
    assert Counter((d0 + d1) % 2 for d0, d1 in ADMISSIBLE) == {0: 40, 1: 40}
    for digits in zip(*ADMISSIBLE): assert Counter(digits) == dict.fromkeys(range(10), 8)
    for task in (parity_target, parity_sentence_target):
        assert Counter(task(torch.tensor(ADMISSIBLE)).tolist()) == dict.fromkeys(range(10), 8)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 40), st.integers(2, 3), st.integers(0, 99))
def test_pairs_obey_the_exclusion(labels, n_pairs, n_subnetworks, seed):
    assume(any(all(pair in ADMISSIBLE for pair in itertools.pairwise(digits))
               for digits in itertools.product(set(labels), repeat=n_subnetworks)))
    draw = {n: draw_pairs(torch.tensor(labels), n, generator=generator(seed), n_subnetworks=n_subnetworks)
            for n in (n_pairs, n_pairs + 7)}
    index = draw[n_pairs]
    assert index.shape == (n_subnetworks, n_pairs) and torch.equal(index, draw[n_pairs + 7][:, :n_pairs])
    for pair in index.T.tolist():
        shown = [labels[i] for i in pair]
        assert all(neighbors in ADMISSIBLE for neighbors in itertools.pairwise(shown))


@pytest.mark.parametrize(('labels', 'n_subnetworks'),
                         [([], 2), ([3], 2), ([3] * 20, 2), ([7] * 20, 4), ([4, 5] * 5, 3)])
def test_labels_without_an_admissible_pair(labels, n_subnetworks):
    "Drawing would never end, so it gives up"
    with pytest.raises(ValueError, match='admissible'):
        draw_pairs(torch.tensor(labels, dtype=torch.long), 1, generator=generator(), n_subnetworks=n_subnetworks)


@pytest.mark.parametrize('n_pairs', [0, -1])
def test_no_pairs(n_pairs):
    with pytest.raises(ValueError, match=f'n_pairs must be at least 1, got {n_pairs}'):
        draw_pairs(DIGITS.train.labels, n_pairs, generator=generator())


def test_one_pass_uses_an_image_once():
    "1,000 pairs are fewer than a first pass yields here"
    for row in draw_pairs(DIGITS.train.labels, 1000, generator=generator()): assert len(row.unique()) == 1000


def test_drawn_pairs_are_balanced():
    index = draw_pairs(DIGITS.train.labels, 40_000, generator=generator())
    shown = list(map(tuple, DIGITS.train.labels[index].T.tolist()))
    counts = Counter(shown)
    assert sorted(counts) == ADMISSIBLE and min(counts.values()) > 400 and max(counts.values()) < 600
    assert abs(np.mean([sum(pair) % 2 for pair in shown]) - .5) < .01


def test_default_number_of_pairs():
    "As many as images, but not fewer than asked"
    assert [default_n_pairs(n, least=16_000) for n in (1, 16_000, 20_000, 60_000)] == [16_000, 16_000, 20_000, 60_000]


def test_held_out_pairs_are_fixed():
    torch.manual_seed(1)
    first = held_out_pairs(DIGITS.test)
    torch.manual_seed(2)
    assert torch.equal(first, held_out_pairs(DIGITS.test)) and first.shape == (2, 4000)
    assert admissible(DIGITS.test.labels[first].T).all()
    assert held_out_pairs(DIGITS.test, n_subnetworks=3).shape == (3, 4000)


# tasks

def test_main_task_is_the_papers_equation():
    for d0, d1 in ALL_PAIRS:
        P = (d0 + d1) % 2
        assert parity_target(torch.tensor([d0, d1])) == P * d0 + (1 - P) * d1
        assert parity_sentence_target(torch.tensor([d0, d1])) == (1 - P) * d0 + P * d1


def test_tasks_of_three_digits():
    for digits in itertools.product(range(10), repeat=3):
        assert parity_target(torch.tensor(digits)) == digits[(sum(digits) - 1) % 3]
        assert parity_sentence_target(torch.tensor(digits)) == digits[sum(digits) % 3]


# random streams

@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=5), st.data())
def test_streams_do_not_depend_on_the_stack(seeds, choice):
    k = choice.draw(st.integers(0, len(seeds) - 1))
    stacked, (alone,) = generators(seeds, 'pairs')[k], generators([seeds[k]], 'pairs')
    assert torch.equal(torch.rand(4, generator=stacked), torch.rand(4, generator=alone))


def test_streams_differ_by_seed_and_name():
    streams = [generators([seed], name)[0] for seed in range(50) for name in ('weights', 'connections', 'walk')]
    assert len({torch.rand(4, generator=g).tolist()[0] for g in streams}) == len(streams)


def test_streams_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    draw_pairs(DIGITS.train.labels, 10, generator=generators([0], 'pairs')[0])
    assert torch.equal(before, torch.get_rng_state())


def test_negative_seed():
    with pytest.raises(ValueError, match='negative'): generators([-1], 'pairs')


# the embedded digits

def test_embedded_digits_are_split_without_loss():
    bunch = load_digits()
    both = [DIGITS.train, DIGITS.test]
    kept = sorted((*image, label) for part in both for image, label in zip(part.images.tolist(), part.labels.tolist()))
    assert kept == sorted((*map(round, image * 255 / 16), label) for image, label in zip(bunch.data, bunch.target))
    assert (len(DIGITS.train), len(DIGITS.test)) == (1437, 360)
    share = DIGITS.test.labels.bincount() / torch.cat([part.labels for part in both]).bincount()
    assert ((share - .2).abs() < .01).all()
    again = load_dataset('digits')
    assert torch.equal(again.test.images, DIGITS.test.images) and torch.equal(again.test.labels, DIGITS.test.labels)


def test_inputs_are_in_the_unit_interval():
    images = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    x = as_inputs(images)
    assert x.dtype == torch.float32 and x.tolist() == [[0, pytest.approx(.2), 1]]
    assert images.tolist() == [[0, 51, 255]]


def test_standardized_inputs():
    "Mean 0 and deviation 1 over the training pixels; the test images are scaled by the same two numbers"
    dataset = DIGITS.standardized()
    x = as_inputs(dataset.train.images, dataset.train.mean, dataset.train.std)
    assert abs(x.double().mean()) < 1e-6 and abs(x.double().std(correction=0) - 1) < 1e-6
    pixels = dataset.train.images.double() / 255
    assert dataset.train.mean == pytest.approx(pixels.mean().item(), rel=1e-12)
    assert dataset.train.std == pytest.approx(pixels.std(correction=0).item(), rel=1e-9)
    assert (dataset.test.mean, dataset.test.std) == (dataset.train.mean, dataset.train.std)
    assert torch.equal(dataset.test.images, DIGITS.test.images) and dataset.name == 'digits'
    assert dataset.to('cpu') == dataset.to('cpu').standardized()  # moving keeps the scale, and it is not applied twice


def test_pixels_that_cannot_be_standardized():
    plain = Digits(torch.full((3, 4), 51, dtype=torch.uint8), torch.arange(3))
    with pytest.raises(ValueError, match='pixels that are all 0.2 cannot be standardized'):
        Dataset('plain', plain, plain).standardized()


@pytest.mark.parametrize('name', ['cifar', '', 'MNIST', None, 3])
def test_unknown_dataset(name):
    message = rf"dataset must be one of \['digits', 'mnist', 'mnist_2000', 'retina'\], got {name!r}"
    with pytest.raises(ValueError, match=message): load_dataset(name)


# what no network could learn from

IMAGES, LABELS = DIGITS.train.images[:50], DIGITS.train.labels[:50]
FRACTIONS = IMAGES / 255
POISONED = FRACTIONS.clone()
POISONED[7, 3], POISONED[9] = torch.nan, torch.inf

WRONG_IMAGES = {
    'three axes': IMAGES.view(-1, 8, 8), 'one axis': IMAGES[0], 'fractions': FRACTIONS, 'whole numbers': IMAGES.long(),
    'truth values': IMAGES > 99, 'zeros and ones': (IMAGES > 99).byte(), 'black': torch.zeros_like(IMAGES),
    'an array': IMAGES.numpy(), 'a list': IMAGES.tolist(), 'none': None, 'no images': IMAGES[:0],
    'no pixels': IMAGES[:, :0], 'not finite': POISONED, 'fewer': IMAGES[1:]}
WRONG_LABELS = {
    'fewer': LABELS[:-1], 'more': torch.cat([LABELS, LABELS]), 'fractions': LABELS.float(), 'short': LABELS.int(),
    'truth values': LABELS > 4, 'one column': LABELS[:, None], 'an array': LABELS.numpy(), 'a list': LABELS.tolist(),
    'none': None, 'negative': LABELS - 1, 'a number': torch.tensor(3), 'elsewhere': LABELS.to('meta')}


@pytest.mark.parametrize('images', WRONG_IMAGES)
def test_images_that_are_refused(images):
    with pytest.raises(ValueError, match='images must|images are not finite: image 7 is the first of 2|49 images'):
        Digits(WRONG_IMAGES[images], LABELS)


@pytest.mark.parametrize('labels', WRONG_LABELS)
def test_labels_that_are_refused(labels):
    with pytest.raises(ValueError, match='labels'): Digits(IMAGES, WRONG_LABELS[labels])


@pytest.mark.parametrize('scale', [dict(mean=math.nan), dict(mean='0'), dict(std=0.), dict(std=-1.),
                                   dict(std=math.inf)])
def test_scales_that_are_refused(scale):
    with pytest.raises(ValueError, match=f'{next(iter(scale))} must be a number in'): Digits(IMAGES, LABELS, **scale)


def test_data_sets_that_are_refused():
    digits = Digits(IMAGES, LABELS)
    for train, test in ((digits, None), (IMAGES, digits), (digits, (IMAGES, LABELS))):
        with pytest.raises(ValueError, match='(train|test) must be a Digits, such as .*; got '):
            Dataset('a', train, test)
    with pytest.raises(ValueError, match='images to train on have 64 pixels, but images to test on 60'):
        Dataset('other', digits, Digits(IMAGES[:, :60], LABELS))


# data of one's own

SAME = {
    'bytes': IMAGES, 'an array': IMAGES.numpy(), 'rows and columns': IMAGES.view(-1, 8, 8), 'fractions': FRACTIONS,
    'double': FRACTIONS.double().numpy(), 'whole numbers': IMAGES.long(), 'big-endian': IMAGES.numpy().astype('>i4'),
    'unsigned': IMAGES.numpy().astype(np.uint16), 'a channel': IMAGES.view(-1, 8, 8, 1), 'lists': IMAGES.tolist(),
    'turned': np.asfortranarray(IMAGES.numpy()), 'in a computation': FRACTIONS.clone().requires_grad_()}


@pytest.mark.parametrize('images', SAME)
@pytest.mark.parametrize('labels', [LABELS, LABELS.numpy(), LABELS.tolist(), LABELS.byte(),
                                    LABELS.numpy().astype('>u2')],
                         ids=['tensor', 'array', 'list', 'bytes', 'big-endian'])
def test_own_images_in_any_form(images, labels):
    "Bit by bit the same bytes, and nothing that came is changed"
    before = copy.deepcopy(SAME[images])
    data = Dataset.from_arrays(SAME[images], labels, (SAME[images], labels), name='mine')
    for digits in (data.train, data.test):
        assert torch.equal(digits.images, IMAGES) and torch.equal(digits.labels, LABELS)
    assert str(before) == str(SAME[images]) and data.name == 'mine'


def test_black_and_white():
    data = Dataset.from_arrays(IMAGES.numpy() > 99, LABELS, (IMAGES > 99, LABELS))
    assert torch.equal(data.train.images, (IMAGES > 99) * torch.tensor(255, dtype=torch.uint8))


@pytest.mark.parametrize('images', [
    16 * FRACTIONS, -FRACTIONS, FRACTIONS * 1e-3, 2 * FRACTIONS.numpy(), POISONED, POISONED.double().numpy(),
    IMAGES.long() + 1, IMAGES.long() - 1, (IMAGES > 99).int(), IMAGES[:, 0], IMAGES[:0], IMAGES.numpy().astype(str),
    FRACTIONS.numpy().astype(complex), None, 'images', [[1, 2], [3]], 5])
def test_own_images_that_are_refused(images):
    with pytest.raises(ValueError, match='^images (must be|are not finite: image 7 is the first of 2)'):
        Dataset.from_arrays(images, LABELS)


@pytest.mark.parametrize('labels', [LABELS.float(), LABELS[1:], LABELS > 4, LABELS - 1, None, 'labels', 5,
                                    [str(k) for k in LABELS], LABELS[:, None], [[1], [2, 3]]])
def test_own_labels_that_are_refused(labels):
    with pytest.raises(ValueError, match='labels'): Dataset.from_arrays(IMAGES, labels)


def test_images_put_aside():
    "One in five of each class, always the same ones, whatever the order of the classes; none is lost, none is in both"
    data, again = (Dataset.from_arrays(DIGITS.train.images, DIGITS.train.labels) for _ in range(2))
    assert torch.equal(data.test.images, again.test.images)
    counts, aside = DIGITS.train.labels.bincount(), data.test.labels.bincount()
    assert torch.equal(aside, counts // 5) and torch.equal(counts - aside, data.train.labels.bincount())
    both = sorted([*map(tuple, torch.cat([data.train.images, data.test.images]).tolist())])
    assert both == sorted(map(tuple, DIGITS.train.images.tolist()))


def test_too_few_to_put_any_aside():
    with pytest.raises(ValueError, match='fewer than 5 images of each class'):
        Dataset.from_arrays(IMAGES[:4], [0, 0, 1, 1])


# MNIST from made-up files: 6 images to train on and 4 to test on, of 2x2 pixels

def idx(part, kind):
    "The bytes of a made-up idx file"
    n = dict(train=6, t10k=4)[part]
    header, shape = (0x803, (n, 2, 2)) if kind == 'images' else (0x801, (n,))
    values = np.arange(np.prod(shape)) * 9 % 10 if kind == 'labels' else np.arange(np.prod(shape)) * 7 % 256
    return b''.join(int(size).to_bytes(4, 'big') for size in (header, *shape)) + values.astype(np.uint8).tobytes()


CONTENT = {f'{part}-{kind}-idx{"3" if kind == "images" else "1"}-ubyte': idx(part, kind)
           for part in ('train', 't10k') for kind in ('images', 'labels')}


def write(root):
    "Made-up files in torchvision's layout"
    raw = Path(root) / 'MNIST' / 'raw'
    raw.mkdir(parents=True)
    for name, content in CONTENT.items(): (raw / name).write_bytes(content)
    return raw


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in Path(root).rglob('*') if path.is_file())


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    "Nothing is downloaded unless a test says so"
    monkeypatch.setattr(torchvision.datasets, 'MNIST', lambda *_, **__: pytest.fail('downloaded unasked'))


@pytest.fixture
def made_up(monkeypatch):
    "Sizes and sums of the made-up files in place of MNIST's"
    sums = {name: (len(content), md5(content)) for name, content in CONTENT.items()}
    monkeypatch.setattr(mnist, 'MNIST_FILES', sums)


@pytest.fixture
def offers(monkeypatch):
    "Let torchvision 'download' with a function of the root folder"
    def offer(fetch):
        def MNIST(root, *, download=False):
            assert download
            fetch(root)
        monkeypatch.setattr(torchvision.datasets, 'MNIST', MNIST)
    return offer


def test_whole_files(tmp_path, made_up):
    write(tmp_path)
    for download in (False, True):  # nothing to download in either case
        dataset = load_mnist(tmp_path, download=download)
        assert dataset.name == 'mnist' and dataset.n_pixels == 4
        for part, digits in (('train', dataset.train), ('t10k', dataset.test)):
            images, labels = (CONTENT[f'{part}-{kind}-ubyte'] for kind in ('images-idx3', 'labels-idx1'))
            assert digits.images.flatten().tolist() == list(images[16:]) and digits.images.dtype == torch.uint8
            assert digits.labels.tolist() == list(labels[8:]) and digits.labels.dtype == torch.int64


def test_few_images(tmp_path, monkeypatch):
    "The first 2,000 images to train on, and all others are forgotten; the test images are those of MNIST"
    images, labels = np.arange(2003 * 2) % 256, np.arange(2003) % 10
    def part(n): return Digits(torch.tensor(images[:2 * n].reshape(n, 2), dtype=torch.uint8), torch.tensor(labels[:n]))
    asked = []
    def whole(root, *, download):
        asked.append((root, download))
        return Dataset('mnist', part(2003), part(30))
    monkeypatch.setattr(data, 'load_mnist', whole)
    few = load_dataset('mnist_2000', root=tmp_path, download=True)
    assert asked == [(tmp_path, True)] and few.name == 'mnist_2000' and (len(few.train), len(few.test)) == (2000, 30)
    assert torch.equal(few.train.images, part(2000).images) and torch.equal(few.train.labels, part(2000).labels)
    assert few.train.images.untyped_storage().nbytes() == 4000


def test_few_images_of_damaged_files(tmp_path, made_up):
    "The same errors as for all of MNIST"
    with pytest.raises(DatasetError, match='is missing; point MODSPEC_DATA at'): load_mnist_2000(tmp_path)
    name = next(iter(CONTENT))
    (write(tmp_path) / name).write_bytes(CONTENT[name][:-1])
    with pytest.raises(DatasetError, match='expected .* delete it and fetch it again'): load_mnist_2000(tmp_path)


def md5(content):
    return hashlib.md5(content).hexdigest()


def altered(content, at, value):
    return content[:at] + bytes([value]) + content[at + 1:]


DAMAGE = { # name: (what happens to the file's content, what the message says)
    'truncated': (lambda c: c[:-1], lambda c: f'{len(c) - 1:,} bytes, expected {len(c):,}'),
    'too long': (lambda c: c + b'\0', lambda c: f'{len(c) + 1:,} bytes, expected {len(c):,}'),
    'empty': (lambda c: b'', lambda c: f' 0 bytes, expected {len(c):,}'),
    'wrong magic': (lambda c: altered(c, 3, 0x0d), lambda c: f'0x{c[2]:x}0d, expected 0x{c[2]:x}0{c[3]:x}'),
    'other count': (lambda c: altered(c, 7, c[7] + 1), lambda c: f', expected {md5(c)}'),
    'altered': (lambda c: altered(c, 9, 255), lambda c: f', expected {md5(c)}')}


@pytest.mark.provokes('damaged data')
@pytest.mark.parametrize('name', CONTENT)
@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_files(tmp_path, made_up, name, damage):
    "The message holds path, what was found, what was expected, and the way out; a damaged file is never replaced"
    path = write(tmp_path) / name
    damaged, message = DAMAGE[damage]
    path.write_bytes(damaged(CONTENT[name]))
    for download in (False, True):
        with pytest.raises(DatasetError) as error: load_mnist(tmp_path, download=download)
        for part in (str(path), message(CONTENT[name]), 'delete it and fetch it again'): assert part in str(error.value)
    assert path.read_bytes() == damaged(CONTENT[name])


@pytest.mark.provokes('damaged data')
@pytest.mark.parametrize('name', CONTENT)
def test_missing_file(tmp_path, made_up, name):
    path = write(tmp_path) / name
    path.unlink()
    with pytest.raises(DatasetError) as error: load_mnist(tmp_path)
    for part in (f'{path} is missing', 'MODSPEC_DATA', '--download'): assert part in str(error.value)


@pytest.mark.provokes('damaged data')
def test_absent_data(tmp_path):
    "Nothing is fetched and nothing is created"
    with pytest.raises(DatasetError, match='is missing; point MODSPEC_DATA at .* or allow the download'):
        load_dataset('mnist', root=tmp_path / 'absent')
    assert not list(tmp_path.iterdir())


@pytest.mark.provokes('damaged data')
def test_unreadable_file(tmp_path, made_up, monkeypatch):
    path = write(tmp_path) / 'train-images-idx3-ubyte'
    def refuse(path): raise PermissionError(13, 'Permission denied', str(path))
    monkeypatch.setattr(Path, 'read_bytes', refuse)
    with pytest.raises(DatasetError, match='Permission denied') as error: load_mnist(tmp_path)
    assert str(path) in str(error.value)


def test_where_data_are_looked_for(tmp_path, made_up, monkeypatch):
    monkeypatch.setattr(platformdirs, 'user_cache_dir', lambda app: str(tmp_path / 'cache' / app))
    monkeypatch.delenv('MODSPEC_DATA', raising=False)
    assert data_root() == tmp_path / 'cache' / 'modspec'
    monkeypatch.setenv('MODSPEC_DATA', '')
    assert data_root() == tmp_path / 'cache' / 'modspec'
    monkeypatch.setenv('MODSPEC_DATA', str(tmp_path / 'env'))
    write(data_root())
    assert len(load_dataset('mnist').test) == 4
    with pytest.raises(DatasetError, match='is missing'): load_dataset('mnist', root=tmp_path / 'elsewhere')


# downloading

def test_download_on_request(tmp_path, made_up, offers):
    offers(write)
    root = tmp_path / 'new' / 'cache'
    assert len(load_mnist(root, download=True).train) == 6
    assert files(root) == sorted(f'MNIST/raw/{name}' for name in CONTENT)  # and nothing beside
    assert len(load_mnist(root).train) == 6


@pytest.mark.parametrize('name', CONTENT)
def test_download_of_what_is_missing(tmp_path, made_up, offers, name):
    "A file that was deleted, as the message about a damaged one advises, comes back"
    (write(tmp_path) / name).unlink()
    offers(write)
    assert len(load_mnist(tmp_path, download=True).test) == 4
    assert files(tmp_path) == sorted(f'MNIST/raw/{name}' for name in CONTENT)


def interrupted_by(error):
    "A download that breaks off after two files"
    def fetch(root):
        raw = write(root)
        for name in list(CONTENT)[2:]: (raw / name).unlink()
        raise error
    return fetch


@pytest.mark.provokes('damaged data')
@pytest.mark.parametrize('error', [URLError('no route'), ConnectionResetError(104, 'reset'),
                                   OSError(28, 'No space left on device'), RuntimeError('Error downloading a file')])
def test_failed_download_leaves_nothing(tmp_path, made_up, offers, error):
    offers(interrupted_by(error))
    with pytest.raises(DatasetError, match='could not be downloaded') as caught: load_mnist(tmp_path, download=True)
    assert str(tmp_path) in str(caught.value) and str(error) in str(caught.value)
    assert files(tmp_path) == []


@pytest.mark.provokes('damaged data')
def test_interrupted_download_leaves_nothing(tmp_path, made_up, offers):
    offers(interrupted_by(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt): load_mnist(tmp_path, download=True)
    assert files(tmp_path) == []
    offers(write)
    assert len(load_mnist(tmp_path, download=True).train) == 6


@pytest.mark.provokes('damaged data')
@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_download_leaves_nothing(tmp_path, made_up, offers, damage):
    def fetch(root):
        path = write(root) / 't10k-labels-idx1-ubyte'
        path.write_bytes(DAMAGE[damage][0](path.read_bytes()))
    offers(fetch)
    with pytest.raises(DatasetError, match='expected'): load_mnist(tmp_path, download=True)
    assert files(tmp_path) == []


@pytest.mark.provokes('damaged data')
def test_cache_that_cannot_be_written(tmp_path, made_up, offers):
    "The cache folder would lie below a file"
    (tmp_path / 'file').touch()
    offers(write)
    with pytest.raises(DatasetError) as error: load_mnist(tmp_path / 'file' / 'cache', download=True)
    for part in (str(tmp_path / 'file' / 'cache'), 'MODSPEC_DATA'): assert part in str(error.value)


# the real MNIST

def mnist_root():
    "Where MNIST lies on this machine, if it does"
    candidates = [Path(os.environ['MODSPEC_DATA'])] if os.environ.get('MODSPEC_DATA') else []
    return next((root for root in candidates if (root / 'MNIST' / 'raw').is_dir()), None)


@pytest.mark.skipif(mnist_root() is None, reason='MODSPEC_DATA names no folder with MNIST')
def test_real_mnist():
    dataset = load_dataset('mnist', root=mnist_root())
    assert (len(dataset.train), len(dataset.test), dataset.n_pixels) == (60_000, 10_000, 784)
    assert dataset.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert dataset.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9] and dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert dataset.train.images.min() == 0 and dataset.train.images.max() == 255
    mean = dataset.train.images.float().mean() / 255
    assert abs(mean - .1307) < 1e-4  # the mean that everyone normalizes by
    assert held_out_pairs(dataset.test).shape == (2, 10_000)
    few = load_dataset('mnist_2000', root=mnist_root())
    assert few.train.labels.bincount().tolist() == [191, 220, 198, 191, 214, 180, 200, 224, 172, 210]
    assert torch.equal(few.train.images, dataset.train.images[:2000])
    assert torch.equal(few.test.images, dataset.test.images)
