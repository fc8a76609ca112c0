// What several kernels need, and the host's own compiler brings in another way (tests/host_cuda/host_cuda.h).

// Half precision as its bits.
__device__ __forceinline__ unsigned short half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
