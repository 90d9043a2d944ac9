"""Small products on one thread."""

import contextlib

import torch


@contextlib.contextmanager
def one_thread():
    """Products this small are slower on several threads, and far slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
