// The kernels' own sources, compiled for the processor.
#include "host_cuda.h"

#include "faulty.cu"

HOST_KERNEL(reversed)
HOST_KERNEL(reversed_in_a_race)
HOST_KERNEL(last_block)
HOST_KERNEL(waits_apart)
HOST_KERNEL(overruns)
HOST_KERNEL(overruns_shared)
HOST_KERNEL(kinds)
