"""Examples in batches, under the names of torch.utils.data.

>>> rows = TensorDataset(Tensor([[1.0], [2.0], [3.0]]), Tensor([0, 1, 0]))
>>> [len(x) for x, y in DataLoader(rows, batch_size=2)]
[2, 1]
"""

from collections.abc import Iterator, Sized

import numpy as np

from week08.minigrad.tensor import Tensor


class TensorDataset:
    """Tensors of equal length; an index takes the same rows of each."""

    def __init__(self, *tensors: Tensor):
        if not tensors or len({len(tensor) for tensor in tensors}) != 1:
            shapes = [tensor.shape for tensor in tensors]
            raise ValueError(f"tensors must be of equal length, got shapes {shapes}")
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, index):
        return tuple(tensor[index] for tensor in self.tensors)


class DataLoader:
    """Batches of a data set; each pass over the loader is an epoch.

    Parameters
    ----------
    dataset
        A `TensorDataset`, or anything with a length whose [array of indices] is a batch.
    shuffle, generator
        A new order in each epoch, drawn from the generator: the same seed, the same epochs.
    drop_last
        Leave out the last batch if it is not full.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        *,
        generator: np.random.Generator | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if shuffle and generator is None:
            raise ValueError("generator must be given to shuffle: no order is drawn in secret")
        self.dataset, self.batch_size = dataset, batch_size
        self.shuffle, self.drop_last, self.generator = shuffle, drop_last, generator

    def __len__(self):
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        n = len(self.dataset)
        order = self.generator.permutation(n) if self.shuffle else np.arange(n)
        for i in range(len(self)):
            yield self.dataset[order[i * self.batch_size : (i + 1) * self.batch_size]]
