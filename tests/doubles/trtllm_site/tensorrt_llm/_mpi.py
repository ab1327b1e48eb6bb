"""As much of MPI as a rank of the double needs, by ctypes: who is in the world, and what all of them have said.

MPI is used at the start and at the end alone: its waiting burns a core, which on a GPU node nobody misses. What goes on
in between is said on sockets.
"""

import ctypes

RECORD = 256


class World:
    """MPI_COMM_WORLD of this process."""

    def __init__(self):
        self._mpi = mpi = ctypes.CDLL("libmpi.so.40", mode=ctypes.RTLD_GLOBAL)
        self._comm = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, "ompi_mpi_comm_world")))
        self._byte = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, "ompi_mpi_byte")))
        mpi.MPI_Init(None, None)
        self.rank, self.size = self._number("MPI_Comm_rank"), self._number("MPI_Comm_size")

    def gather(self, text):
        """What every rank has said, by rank; all of them must call it."""
        mine = ctypes.create_string_buffer(text.encode(), RECORD)
        all_of_it = ctypes.create_string_buffer(RECORD * self.size)
        self._mpi.MPI_Allgather(mine, RECORD, self._byte, all_of_it, RECORD, self._byte, self._comm)
        raw = all_of_it.raw
        records = [raw[start : start + RECORD] for start in range(0, len(raw), RECORD)]
        return [record.partition(b"\0")[0].decode() for record in records]

    def finalize(self):
        self._mpi.MPI_Finalize()

    def _number(self, name):
        value = ctypes.c_int()
        getattr(self._mpi, name)(self._comm, ctypes.byref(value))
        return value.value
