"""Threads that compute with no others to help them."""

import threading

import torch


def compute_alone() -> None:
    """Have the calling thread compute by itself; all others keep what they have.

    torch keeps one number for threads that are yet to come, each of which takes it over at its
    first operation; setting one's own sets that, too, so that it is put back from another thread.
    """
    before = torch.get_num_threads()  # takes it over now
    torch.set_num_threads(1)
    other = threading.Thread(target=torch.set_num_threads, args=(before,))
    other.start()
    other.join()
