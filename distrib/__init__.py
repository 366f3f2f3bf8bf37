"""Train image classifiers with PyTorch and Accelerate: the same run on any number of processes."""

__version__ = "0.1.0"
