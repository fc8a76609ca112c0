// Pieces of biosignals, (piece, sample, channel), become (piece, channel, sample), normalised: signal.write_signal.
// Grid: x over the samples, y over the channels, z over the pieces.

extern "C" __global__ void write_signal(const float* samples, int n_samples, int n_channels, float mean, float std,
                                        float* out) {
    int sample = blockIdx.x * blockDim.x + threadIdx.x, channel = blockIdx.y;
    if (sample >= n_samples) return;
    long long piece = (long long)blockIdx.z * n_samples * n_channels;
    float value = __ldg(samples + piece + (long long)sample * n_channels + channel);
    out[piece + (long long)channel * n_samples + sample] = (value - mean) / std;
}
