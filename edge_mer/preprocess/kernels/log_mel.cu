// From the samples of one step to a log-mel spectrogram in one launch: audio.log_mel and vggish_audio.
//
// One block makes one column: window, FFT and mel bands lie in shared memory. What needs the whole spectrogram,
// its maximum, is left to the last block of each clip, which the blocks find by counting themselves.

struct Bands {
    const int* first_bin;    // of each band; the bands' triangles are what is stored of the matrix
    const int* first_weight; // of each band, and one more for the end
    const float* weights;
};

// Not a number stays one, as in NumPy.
__device__ __forceinline__ float larger(float a, float b) { return a > b || a != a ? a : b; }

template <class Real>
struct alignas(2 * sizeof(Real)) Pair {
    Real x, y;
};

// A frame of n_fft windowed samples becomes spectrum[0 .. n_fft/2]: squared magnitudes, or magnitudes.
// Real samples are taken in pairs as complex numbers of half as long an FFT (Stockham's, radix 2), and told
// apart at the end. `frame` has room for 2 n_fft numbers, of which the first n_fft are given.
template <class Real>
__device__ __forceinline__ void spectrum_of(Real* frame, const Pair<Real>* __restrict__ turns, int n_fft,
                                            bool is_power, float* spectrum) {
    int half = n_fft / 2, thread = threadIdx.x, threads = blockDim.x;
    Pair<Real>* in = (Pair<Real>*)frame;
    Pair<Real>* out = in + half;
    for (int done = 1; done < half; done *= 2) {
        __syncthreads();
        for (int i = thread; i < half / 2; i += threads) {
            int k = i & (done - 1), place = 2 * (i - k) + k;
            Pair<Real> turn = turns[k * (half / done)], a = in[i], b = in[i + half / 2];
            Pair<Real> c = {b.x * turn.x - b.y * turn.y, b.x * turn.y + b.y * turn.x};
            out[place] = {a.x + c.x, a.y + c.y};
            out[place + done] = {a.x - c.x, a.y - c.y};
        }
        Pair<Real>* swap = in;
        in = out;
        out = swap;
    }
    __syncthreads();
    const Real part = 0.5f;
    for (int k = thread; k <= half; k += threads) {
        Pair<Real> a = in[k & (half - 1)], b = in[(half - k) & (half - 1)], turn = turns[k];
        Real even_x = part * (a.x + b.x), even_y = part * (a.y - b.y);
        Real odd_x = part * (a.y + b.y), odd_y = part * (b.x - a.x);
        float x = (float)(even_x + odd_x * turn.x - odd_y * turn.y);
        float y = (float)(even_y + odd_x * turn.y + odd_y * turn.x);
        float power = x * x + y * y;
        spectrum[k] = is_power ? power : sqrtf(power);
    }
    __syncthreads();
}

__device__ __forceinline__ float band_of(const Bands& bands, const float* spectrum, int band) {
    // Of a matrix product all bins would be part; what is not a number reaches every band.
    float sum = 0.f * spectrum[0];
    int first = __ldg(bands.first_weight + band), end = __ldg(bands.first_weight + band + 1);
    const float* bins = spectrum + __ldg(bands.first_bin + band) - first;
    for (int i = first; i < end; ++i) sum += bins[i] * __ldg(bands.weights + i);
    return sum;
}

// Grid: x over all columns, y over the clips. `db` (clip, column, band) holds decibels in between, `n_done` counts
// columns per clip and is 0 again at the end. `out`: (clip, band, width), the newest columns at the right.
extern "C" __global__ void log_mel(const float* samples, int n_samples, const float* window,
                                   const Pair<float>* turns, const int* first_bin, const int* first_weight, const float* weights, int n_fft,
                                   int hop, int n_bands, float amin, float top_db, float mean, float std, int width,
                                   float* db, int* n_done, float* out) {
    extern __shared__ __align__(16) float shared[];
    int thread = threadIdx.x, threads = blockDim.x, column = blockIdx.x, n_columns = gridDim.x;
    const float* wave = samples + (long long)blockIdx.y * n_samples;
    int turn = 2 * (n_samples - 1), begin = column * hop - n_fft / 2;
    for (int i = thread; i < n_fft; i += threads) {
        int place = turn ? abs(begin + i) % turn : 0;  // mirrored at both ends
        place = place < n_samples ? place : turn - place;
        shared[i] = __ldg(wave + place) * __ldg(window + i);
    }
    float* spectrum = shared + 2 * n_fft;
    spectrum_of(shared, turns, n_fft, true, spectrum);
    float* clip_db = db + (long long)blockIdx.y * n_columns * n_bands;
    Bands bands = {first_bin, first_weight, weights};
    for (int band = thread; band < n_bands; band += threads)
        clip_db[column * n_bands + band] = 10.f * log10f(larger(band_of(bands, spectrum, band), amin));

    __threadfence();
    __syncthreads();
    if (thread == 0) ((int*)shared)[0] = atomicAdd(n_done + blockIdx.y, 1);
    __syncthreads();
    if (((int*)shared)[0] != n_columns - 1) return;
    __threadfence();
    __syncthreads();

    volatile float* all = clip_db;  // other blocks wrote it: not from this block's cache
    float most = all[0];
    for (int i = thread; i < n_columns * n_bands; i += threads) most = larger(all[i], most);
    shared[thread] = most;
    for (int step = threads / 2; step; step /= 2) {
        __syncthreads();
        if (thread < step) shared[thread] = larger(shared[thread], shared[thread + step]);
    }
    __syncthreads();
    float least = shared[0] - top_db;
    float* clip_out = out + (long long)blockIdx.y * n_bands * width;
    for (int i = thread; i < n_bands * width; i += threads) {
        int band = i / width, from = n_columns - width + i % width;
        clip_out[i] = from < 0 ? 0.f : (larger(least, all[from * n_bands + band]) - mean) / std;
    }
    if (thread == 0) n_done[blockIdx.y] = 0;
}

// Grid: x over the columns, y over the clips. `out`: (clip, column, band), natural logarithms. Beside a loud tone,
// magnitudes near `offset` take an FFT that is exact to more than single precision.
extern "C" __global__ void vggish_log_mel(const float* samples, int n_samples, const double* window,
                                          const Pair<double>* turns, const int* first_bin,
                                          const int* first_weight, const float* weights, int n_fft, int n_window,
                                          int hop, int n_bands, float offset, float* out) {
    extern __shared__ __align__(16) float shared[];
    const float* wave = samples + (long long)blockIdx.y * n_samples + blockIdx.x * hop;
    double* frame = (double*)shared;
    for (int i = threadIdx.x; i < n_fft; i += blockDim.x)
        frame[i] = i < n_window ? __ldg(wave + i) * __ldg(window + i) : 0.0;
    float* spectrum = shared + 4 * n_fft;
    spectrum_of(frame, turns, n_fft, false, spectrum);
    Bands bands = {first_bin, first_weight, weights};
    float* column = out + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * n_bands;
    for (int band = threadIdx.x; band < n_bands; band += blockDim.x)
        column[band] = logf(band_of(bands, spectrum, band) + offset);
}
