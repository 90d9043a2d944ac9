"""Images to classify and to look at; `shared.datasets` offers them all."""

import gzip
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared.errors import UserError
from shared.registry import note, path

__all__ = [
    "Digits",
    "Images",
    "Views",
    "cifar10",
    "digits",
    "fashion_mnist",
    "mnist",
    "nerf_lego",
    "photographs",
]

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR10_TEST_BATCH = 50


class Digits(NamedTuple):
    """Images (1797, 8, 8) float64 from 0 to 16, labels (1797,) int64 from 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Images:
    """Labeled images in a training and a test part.

    Attributes
    ----------
    train_images, test_images
        (n, height, width) or (n, height, width, 3) uint8, 0 (black) to 255.
    train_labels, test_labels
        (n,) uint8, indices into class_names.
    class_names
        The classes in the order of their labels.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


class Views(NamedTuple):
    """Pictures of one scene from known places.

    Attributes
    ----------
    images
        (n, height, width, 3) float32 from 0 to 1.
    poses
        (n, 4, 4) float32, camera to world; a camera looks along its own -z, y upwards.
    focal
        Focal length in pixels.
    """

    images: np.ndarray
    poses: np.ndarray
    focal: float


def digits() -> Digits:
    """Return scikit-learn's handwritten digits, which need no download."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    note("scikit-learn's digits", bunch.images.tobytes())
    return Digits(bunch.images, bunch.target)


def photographs() -> dict[str, np.ndarray]:
    """Return scikit-learn's photographs ``"china"`` and ``"flower"``, (427, 640, 3) uint8 each."""
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    note("scikit-learn's photographs", b"".join(image.tobytes() for image in bunch.images))
    return {
        Path(name).stem: np.asarray(image)
        for name, image in zip(bunch.filenames, bunch.images, strict=True)
    }


def mnist() -> Images:
    """Return MNIST: 60,000 training and 10,000 test images of (28, 28), in the original order."""
    train_images = np.concatenate(
        [_png(path("mnist", f"mnist_batch_{i}.png"), (3000, 784)) for i in range(20)]
    )
    return Images(
        train_images.reshape(60_000, 28, 28),
        _idx(path("mnist", "train-labels-idx1-ubyte.gz"), (60_000,)),
        _idx(path("mnist", "t10k-images-idx3-ubyte.gz"), (10_000, 28, 28)),
        _idx(path("mnist", "t10k-labels-idx1-ubyte.gz"), (10_000,)),
        tuple("0123456789"),
    )


def fashion_mnist() -> Images:
    """Return Fashion-MNIST: as `mnist`, with clothes (30 MB to download the first time)."""
    arrays = [
        _idx(path("fashion_mnist", f"{part}-{kind}-ubyte.gz"), (n, *shape))
        for part, n in (("train", 60_000), ("t10k", 10_000))
        for kind, shape in (("images-idx3", (28, 28)), ("labels-idx1", ()))
    ]
    return Images(*arrays, FASHION_CLASSES)


def cifar10(train_batches: int = 15) -> Images:
    """Return a part of CIFAR-10, in the original order.

    Parameters
    ----------
    train_batches
        How many thousands of the training images, 1 to 50 (2.3 MB each).

    Returns
    -------
    images
        train_images is (1000 train_batches, 32, 32, 3); test_images is **the first 1,000** of
        the 10,000 test images, the only ones this source holds.

    Raises
    ------
    ValueError
        train_batches is out of range.
    """
    if not 1 <= train_batches <= CIFAR10_TEST_BATCH:
        raise ValueError(
            f"train_batches must be between 1 and {CIFAR10_TEST_BATCH}, got {train_batches}"
        )

    def batch(number: int) -> np.ndarray:
        rows = _png(path("cifar10", f"cifar10_batch_{number}.png"), (1000, 1024, 3))
        return rows.reshape(1000, 32, 32, 3)

    labels = _cifar10_labels(path("cifar10", "cifar10_labels.js"))
    return Images(
        np.concatenate([batch(i) for i in range(train_batches)]),
        labels[: 1000 * train_batches],
        batch(CIFAR10_TEST_BATCH),
        labels[1000 * CIFAR10_TEST_BATCH :],
        CIFAR10_CLASSES,
    )


def nerf_lego(size: int = 100) -> Views:
    """Return 34 views of the lego bulldozer that NeRF was shown, on white ground.

    Parameters
    ----------
    size
        Pixels each way; the 800 of the files are averaged, so it must divide them.

    Raises
    ------
    ValueError
        size does not divide 800.
    UserError
        The files cannot be had; see `shared.registry.fetch`.
    """
    from PIL import Image

    if size < 1 or 800 % size:
        raise ValueError(f"size must divide 800, got {size}")
    cameras = json.loads(path("nerf_lego", "transforms_train.json").read_text("utf-8"))
    images, poses = [], []
    for frame in cameras["frames"][::3]:
        with Image.open(path("nerf_lego", f"train/{Path(frame['file_path']).name}.png")) as image:
            if (image.mode, image.size) != ("RGBA", (800, 800)):
                raise UserError(f"{image.filename} is an image of {image.mode}, {image.size}")
            # Colors of what is transparent count for nothing, so white goes under it first.
            rgba = np.asarray(image, np.float32) / 255
        flat = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
        images.append(flat.reshape(size, 800 // size, size, -1, 3).mean((1, 3)))
        poses.append(frame["transform_matrix"])
    focal = size / 2 / np.tan(cameras["camera_angle_x"] / 2)
    return Views(np.stack(images), np.array(poses, np.float32), float(focal))


def _png(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Decode an 8-bit PNG of the expected (rows, columns) or (rows, columns, 3)."""
    from PIL import Image

    with Image.open(file) as image:
        # Only the header has been read so far: a huge image is refused before it is decoded.
        expected = ("RGB" if len(shape) == 3 else "L", shape[1], shape[0])
        found = (image.mode, *image.size)
        if found != expected:
            raise UserError(f"{file} is an image of {found}, expected {expected}")
        return np.array(image)  # a copy, because callers may write to it


def _idx(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Decode a gzipped idx file of unsigned bytes of the expected shape."""
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    size = len(header) + int(np.prod(shape))
    with gzip.open(file) as stream:
        data = stream.read(size + 1)
    if len(data) != size or not data.startswith(header):
        raise UserError(f"{file} is not an idx file of unsigned bytes with the shape {shape}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape).copy()


def _cifar10_labels(file: Path) -> np.ndarray:
    """Read ``var labels=[…];`` as JSON; the file is JavaScript, but is never run as such."""
    text = file.read_text(encoding="ascii").strip()
    labels = json.loads(text.removeprefix("var labels=").removesuffix(";"))
    if len(labels) != 51_000 or not all(type(x) is int and 0 <= x < 10 for x in labels):
        raise UserError(f"{file} does not hold 51,000 labels from 0 to 9")
    return np.array(labels, np.uint8)
