"""A thread that computes alone leaves all others as they are."""

import subprocess
import sys

SCRIPT = """
import threading, torch
from cvrbench.data.sampler import compute_alone

torch.set_num_threads(3)
def call(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]
def alone():
    compute_alone()
    torch.ones(100_000).sum()
    return torch.get_num_threads()
print(call(alone), torch.get_num_threads(), call(torch.get_num_threads))
"""


def test_a_thread_that_computes_alone_changes_no_other_before_or_after_its_first_operation():
    # In a process of its own, whose threads have computed nothing yet.
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["1", "3", "3"]
