// One step of all feature rings: shift, append, and keep what a policy may hold; sync.FeatureRing.
// Grid: x over the features of the widest ring, y over the rings. A thread owns one feature in all steps.

struct Ring {
    float* buffer;         // (step, feature), the newest step last: the fusion's own input
    const float* feature;  // to be appended; null: zeros
    float* held;           // where a copy of it is kept; null: it is not kept
    int n_features;
    int clear;             // forget all steps first
    int present;           // of the new step
    int unused;
};

// `mask`: (ring, step) of bytes, or null where the fusion takes none.
extern "C" __global__ void push_features(const Ring* rings, int n_steps, unsigned char* mask) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    const Ring ring = rings[blockIdx.y];
    if (i < ring.n_features) {
        float feature = ring.feature ? ring.feature[i] : 0.f;
        float* place = ring.buffer + i;
        for (int step = 1; step < n_steps; ++step, place += ring.n_features)
            *place = ring.clear ? 0.f : place[ring.n_features];
        *place = feature;
        if (ring.held) ring.held[i] = feature;
    }
    if (i == 0 && mask) {
        unsigned char* steps = mask + (long long)blockIdx.y * n_steps;
        for (int step = 1; step < n_steps; ++step) steps[step - 1] = ring.clear ? 0 : steps[step];
        steps[n_steps - 1] = ring.present != 0;
    }
}
