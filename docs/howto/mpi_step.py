"""Training over the processes of MPI: ``mpirun -n 2 python mpi_step.py``."""

import numpy as np
from mpi4py import MPI

from fastconv import nn


def train(net, batches, rank, size):
    """Train on every size-th image of each batch, and sum the gradients over all processes."""
    loss, optimiser, gradients = nn.CrossEntropyLoss(), nn.Adam(net, 0.01), net.flat_gradients()
    for images, digits in batches:
        loss.forward(net.forward(images[rank::size]), digits[rank::size])
        net.backward(loss.backward(), needs_input=False)  # writes to gradients
        if size > 1:
            gradients *= len(digits[rank::size]) / len(digits)  # a mean of this share, not of the batch
            MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, gradients)
        optimiser.step()
    return net.flat_parameters()


def network():
    """The same start in every process: weights by a seed."""
    rng = np.random.default_rng(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, rng=rng), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, 10, rng=rng)
    )


rng = np.random.default_rng(1)  # in a real program each process reads its own images
batches = [(rng.random((31, 1, 28, 28), np.float32), rng.integers(0, 10, 31)) for _ in range(5)]

together = train(network(), batches, MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size)
alone = train(network(), batches, 0, 1)
difference = MPI.COMM_WORLD.allreduce(float(abs(together - alone).max()), MPI.MAX)
assert difference < 1e-4, difference
if MPI.COMM_WORLD.rank == 0:
    print(f"{MPI.COMM_WORLD.size} processes: the parameters of one process, to {difference:.0e}")
