"""Leaves while a thread of gloo waits for the interpreter, to let go of the tensor of a collective.

Started as ``leaving_worker.py OUT HOW`` in two processes, where OUT holds a pipe `leaving`, and HOW is `leave`, or
`exit`, as Python itself does.
"""

import atexit
import ctypes
import json
import os
import sys
from pathlib import Path

from distrib.lifecycle.leaving import leave

HELD = 2  # seconds for which the interpreter is held, and the thread waits for it


def main() -> int:
    out = Path(sys.argv[1])
    if os.environ["RANK"] == "0":
        # From here to the end of the process nothing gives the interpreter to another thread. Last of all exit
        # functions, which is why the others are imported later.
        atexit.register(ctypes.PyDLL(None).sleep, HELD)
        atexit.register((out / "leaving").write_text, "")
    import numpy as np
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    (out / f"{dist.get_rank()}.json").write_text(json.dumps({"num_processes": dist.get_world_size()}))
    tensor = torch.from_numpy(np.ones(3))  # numpy owns its memory: whoever lets it go last needs Python
    if dist.get_rank() == 0:
        dist.all_reduce(tensor, async_op=True)
    else:
        (out / "leaving").read_text()
        dist.all_reduce(tensor)
    return 0


if __name__ == "__main__":
    if sys.argv[2] == "leave":
        leave(main)
    raise SystemExit(main())
