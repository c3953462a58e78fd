#!/usr/bin/env -S PATH=${PATH}:/opt/architrave/bin python3
"""A real MPI program: after SIGTERM its ranks save their state, meet, and leave MPI as they should.

mpi_solver SECONDS     takes so long for it; rank 0 a second more, and the others wait for it
"""

import ctypes
import os
import signal
import sys
import time

mpi = ctypes.CDLL("libmpi.so.40", mode=ctypes.RTLD_GLOBAL)
received = []
signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
mpi.MPI_Init(None, None)
world = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, "ompi_mpi_comm_world")))
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
path = os.path.join(os.environ["TMP_OUTPUT_DIR"], f"m{rank}")
print("ready", rank, flush=True)
while not received:
    time.sleep(0.05)
time.sleep(float(sys.argv[1]) + (rank == 0))
with open(f"{path}.checkpoint", "w") as file:
    file.write(f"{received}\n")
mpi.MPI_Barrier(world)
mpi.MPI_Finalize()
with open(f"{path}.finalized", "w") as file:
    file.write("whole\n")
