"""Which published sets there are: their files, where they come from, and what proves that they are whole.

Checksums are SHA-256 of the published archives: MNIST's were computed from files that have the md5 which torchvision
pins; the others are those on which several public projects agree.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rebatch.errors import RequestError, did_you_mean

Format = Literal["idx", "cifar10-binary", "cifar100-binary", "cifar10-python", "cifar100-python"]
"""How a layout's files are read."""


@dataclass(frozen=True)
class File:
    """A file of a layout: its size in bytes, and that of the published `.gz`; None where no size is fixed."""

    name: str
    size: int | None = None
    packed_size: int | None = None


@dataclass(frozen=True)
class Layout:
    """Files of one format in one folder below the data folder; IDX files are images, then labels."""

    folder: str
    format: Format
    train: tuple[File, ...]
    test: tuple[File, ...]

    @property
    def files(self) -> tuple[File, ...]:
        """Those to train on, then those to test on."""
        return self.train + self.test


@dataclass(frozen=True)
class Download:
    """A file to fetch: one of the first layout's as it is, or a `.tar.gz` with that layout's folder in it."""

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PublishedSet:
    """A published set; the first layout is the one that is fetched, the others are read where they lie.

    Attributes:
        train, test: number of examples.
        shape: of one image, (channels, height, width).
    """

    name: str
    layouts: tuple[Layout, ...]
    downloads: tuple[Download, ...]
    train: int
    test: int
    shape: tuple[int, int, int]
    classes: int
    source: str
    license: str


def _idx_layout(folder: str, packed: tuple[int, int, int, int]) -> Layout:
    """Four files of 60,000 and 10,000 images of 28 x 28, as MNIST and Fashion-MNIST have them."""
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    sizes = (16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000)
    files = tuple(File(f"{name}-ubyte", *each) for name, *each in zip(names, sizes, packed, strict=True))
    return Layout(folder, "idx", files[:2], files[2:])


MNIST_PLACE = "https://ossci-datasets.s3.amazonaws.com/mnist"
FASHION_MNIST_PLACE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
CIFAR_PLACE = "https://www.cs.toronto.edu/~kriz"

CIFAR_LICENSE = "no formal licence; cite the report"
CIFAR_SOURCE = "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"

CATALOG: dict[str, PublishedSet] = {
    "mnist": PublishedSet(
        "mnist",
        (_idx_layout("MNIST/raw", (9_912_422, 28_881, 1_648_877, 4_542)),),
        (
            Download(
                f"{MNIST_PLACE}/train-images-idx3-ubyte.gz",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                9_912_422,
            ),
            Download(
                f"{MNIST_PLACE}/train-labels-idx1-ubyte.gz",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                28_881,
            ),
            Download(
                f"{MNIST_PLACE}/t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                1_648_877,
            ),
            Download(
                f"{MNIST_PLACE}/t10k-labels-idx1-ubyte.gz",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                4_542,
            ),
        ),
        train=60_000,
        test=10_000,
        shape=(1, 28, 28),
        classes=10,
        source="Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits",
        license="commonly stated as CC BY-SA 3.0",
    ),
    "fashion-mnist": PublishedSet(
        "fashion-mnist",
        (_idx_layout("FashionMNIST/raw", (26_421_880, 29_515, 4_422_102, 5_148)),),
        (
            Download(
                f"{FASHION_MNIST_PLACE}/train-images-idx3-ubyte.gz",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                26_421_880,
            ),
            Download(
                f"{FASHION_MNIST_PLACE}/train-labels-idx1-ubyte.gz",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                29_515,
            ),
            Download(
                f"{FASHION_MNIST_PLACE}/t10k-images-idx3-ubyte.gz",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                4_422_102,
            ),
            Download(
                f"{FASHION_MNIST_PLACE}/t10k-labels-idx1-ubyte.gz",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                5_148,
            ),
        ),
        train=60_000,
        test=10_000,
        shape=(1, 28, 28),
        classes=10,
        source="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, 2017 (Zalando Research)",
        license="MIT",
    ),
    "cifar10": PublishedSet(
        "cifar10",
        (
            Layout(
                "cifar-10-batches-bin",
                "cifar10-binary",
                tuple(File(f"data_batch_{number}.bin", 10_000 * 3_073) for number in range(1, 6)),
                (File("test_batch.bin", 10_000 * 3_073),),
            ),
            Layout(
                "cifar-10-batches-py",
                "cifar10-python",
                tuple(File(f"data_batch_{number}") for number in range(1, 6)),
                (File("test_batch"),),
            ),
        ),
        (
            Download(
                f"{CIFAR_PLACE}/cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                170_052_171,
            ),
        ),
        train=50_000,
        test=10_000,
        shape=(3, 32, 32),
        classes=10,
        source=CIFAR_SOURCE,
        license=CIFAR_LICENSE,
    ),
    "cifar100": PublishedSet(
        "cifar100",
        (
            Layout(
                "cifar-100-binary",
                "cifar100-binary",
                (File("train.bin", 50_000 * 3_074),),
                (File("test.bin", 10_000 * 3_074),),
            ),
            Layout("cifar-100-python", "cifar100-python", (File("train"),), (File("test"),)),
        ),
        (
            Download(
                f"{CIFAR_PLACE}/cifar-100-binary.tar.gz",
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                168_513_733,
            ),
        ),
        train=50_000,
        test=10_000,
        shape=(3, 32, 32),
        classes=100,
        source=CIFAR_SOURCE,
        license=CIFAR_LICENSE,
    ),
}


def published_set(name: str) -> PublishedSet:
    """The row called `name`.

    Raises:
        RequestError: there is none.
    """
    if name not in CATALOG:
        raise RequestError(f"no published set named {name!r}{did_you_mean(name, CATALOG)}")
    return CATALOG[name]


def fetch_command(name: str, data_dir: Path) -> str:
    """What to type to get the set.

    >>> fetch_command("mnist", Path("/data/sets"))
    'rebatch data fetch mnist --data-dir /data/sets'
    """
    return f"rebatch data fetch {name} --data-dir {shlex.quote(str(data_dir))}"
