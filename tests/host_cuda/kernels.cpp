// The kernels' own sources, compiled for the processor.
#include "host_cuda.h"

#include "crop.cu"
#include "faulty.cu"
#include "features.cu"
#include "log_mel.cu"
#include "signal.cu"

HOST_KERNEL(crop_float32)
HOST_KERNEL(crop_float16)
HOST_KERNEL(crop_int8)

HOST_KERNEL(log_mel)
HOST_KERNEL(vggish_log_mel)
HOST_KERNEL(push_features)
HOST_KERNEL(write_signal)
HOST_KERNEL(resample_signal)
HOST_KERNEL(reversed)
HOST_KERNEL(reversed_in_a_race)
HOST_KERNEL(last_block)
HOST_KERNEL(waits_apart)
HOST_KERNEL(overruns)
HOST_KERNEL(overruns_shared)
HOST_KERNEL(kinds)
