"""What a thread that works beside training does first."""

import torch


def compute_alone() -> None:
    """Let the calling thread compute without helpers.

    Each thread that computes with OpenMP gets helpers of its own. From when there are more of all threads' than cores,
    GNU's OpenMP puts training's to sleep wherever they would wait a moment for one another. Waking them up took a
    tenth of a small network's speed, from the first copy to the end.
    """
    torch.set_num_threads(1)  # of this thread, and of those that begin later: training's has begun
