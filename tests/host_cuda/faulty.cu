// Kernels with faults on purpose, and one without: the host driver must tell them apart.

extern "C" __global__ void reversed(const float* in, float* out) {
    extern __shared__ float shared[];
    shared[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

// Lacks the barrier between the threads that write and those that read.
extern "C" __global__ void reversed_in_a_race(const float* in, float* out) {
    extern __shared__ float shared[];
    shared[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
    out[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

// Every block writes to one place; which one is last is not said.
extern "C" __global__ void last_block(float* out) { out[0] = blockIdx.x; }

// Half of the threads wait where the other half does not.
extern "C" __global__ void waits_apart(float* out) {
    if (threadIdx.x % 2) {
        out[threadIdx.x] = 1.0f;
        __syncthreads();
    } else {
        __syncthreads();
    }
}

// Writes one number more than there is room for.
extern "C" __global__ void overruns(float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) out[i] = 1.0f;
}

// The same in shared memory.
extern "C" __global__ void overruns_shared(float* out) {
    extern __shared__ float shared[];
    shared[threadIdx.x + 1] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x];
}

// All kinds of arguments, in an order that leaves gaps between them.
extern "C" __global__ void kinds(signed char a, const float* b, int c, float d, short e, double f, float* out) {
    out[0] = a;
    out[1] = b[0];
    out[2] = c;
    out[3] = d;
    out[4] = e;
    out[5] = f;
}
