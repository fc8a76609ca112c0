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

// Pieces of a stream of another rate become (piece, 1, sample) at the model's: signal.write_resampled, NaN = missing.
// `firsts`: where each piece's first sample lies, in samples of the stream. Grid: x over the samples, y over the pieces.
extern "C" __global__ void resample_signal(const float* streams, int n_streamed, const double* firsts, double step,
                                           int n_samples, float mean, float std, float* out) {
    int sample = blockIdx.x * blockDim.x + threadIdx.x;
    if (sample >= n_samples) return;
    const float* stream = streams + (long long)blockIdx.y * n_streamed;
    double at = firsts[blockIdx.y] + step * sample, half = max(1.0, step) / 2;
    double low = at - half, high = at + half, sum = 0, weights = 0;
    long long before = (long long)floor(at + 1e-9);
    if (before >= 0 && before < n_streamed && !isnan(stream[before])) {
        long long first = max((long long)floor(low + 0.5), 0LL);
        for (long long tap = first; tap < n_streamed && tap - 0.5 < high; ++tap) {
            double weight = min(high, tap + 0.5) - max(low, tap - 0.5);
            if (weight <= 0 || isnan(stream[tap])) continue;
            sum += weight * stream[tap];
            weights += weight;
        }
    }
    float value = weights > 0 ? (float)(sum / weights) : 0.f;
    out[(long long)blockIdx.y * n_samples + sample] = (value - mean) / std;
}
