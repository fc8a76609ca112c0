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
// apart at the end. `frame` has room for 2 n_fft numbers, of which the first n_fft are given. `turns` holds n_fft/2 + 1
// of them for the end, and behind those each stage's own in a row: 1, 2, 4 ... of them from place 1, 2, 4 ... on.
template <class Real>
__device__ __forceinline__ void spectrum_of(Real* frame, const Pair<Real>* __restrict__ turns, int n_fft,
                                            bool is_power, float* spectrum) {
    int half = n_fft / 2, thread = threadIdx.x, threads = blockDim.x;
    const Pair<Real>* stage_turns = turns + half + 1;
    Pair<Real>* in = (Pair<Real>*)frame;
    Pair<Real>* out = in + half;
    for (int done = 1; done < half; done *= 2) {
        __syncthreads();
        for (int i = thread; i < half / 2; i += threads) {
            int k = i & (done - 1), place = 2 * (i - k) + k;
            Pair<Real> turn = stage_turns[done + k], a = in[i], b = in[i + half / 2];
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

// Grid: x over all columns, y over the clips. `db` (clip, band, column) holds decibels in between, `n_done` counts
// columns per clip and is 0 again at the end. `out`: (clip, band, width), the newest columns at the right.
// Six blocks of 256 threads at a time take 40 registers each, which is enough.
extern "C" __launch_bounds__(256, 6) __global__ void log_mel(
    const float* samples, int n_samples, const float* window, const Pair<float>* turns, const int* first_bin,
    const int* first_weight, const float* weights, int n_fft, int hop, int n_bands, float amin, float top_db, float mean,
    float std, int width, float* db, int* n_done, float* out) {
    extern __shared__ __align__(16) float shared[];
    int thread = threadIdx.x, threads = blockDim.x, column = blockIdx.x, n_columns = gridDim.x;
    const float* wave = samples + (long long)blockIdx.y * n_samples;
    int turn = 2 * (n_samples - 1), begin = column * hop - n_fft / 2;
    for (int i = thread; i < n_fft; i += threads) {
        int place = abs(begin + i);  // mirrored at both ends, of few samples again and again
        if (place > turn) place = turn ? place % turn : 0;
        place = place < n_samples ? place : turn - place;
        shared[i] = __ldg(wave + place) * __ldg(window + i);
    }
    float* spectrum = shared + 2 * n_fft;
    spectrum_of(shared, turns, n_fft, true, spectrum);
    float* clip_db = db + (long long)blockIdx.y * n_columns * n_bands;
    Bands bands = {first_bin, first_weight, weights};
    for (int band = thread; band < n_bands; band += threads)
        clip_db[band * n_columns + column] = 10.f * log10f(larger(band_of(bands, spectrum, band), amin));

    __threadfence();
    __syncthreads();
    if (thread == 0) ((int*)shared)[0] = atomicAdd(n_done + blockIdx.y, 1);
    __syncthreads();
    if (((int*)shared)[0] != n_columns - 1) return;
    __threadfence();
    __syncthreads();

    // Other blocks wrote it: not from this block's cache. Only one block is left, so several loads are under way at a
    // time.
    const int AT_ONCE = 8;
    float most = __ldcg(clip_db), values[AT_ONCE];
    for (int first = thread; first < n_columns * n_bands; first += AT_ONCE * threads) {
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) {
            int i = first + j * threads;
            values[j] = i < n_columns * n_bands ? __ldcg(clip_db + i) : most;
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) most = larger(values[j], most);
    }
    shared[thread] = most;
    for (int step = threads / 2; step; step /= 2) {
        __syncthreads();
        if (thread < step) shared[thread] = larger(shared[thread], shared[thread + step]);
    }
    __syncthreads();
    float least = shared[0] - top_db;
    float* clip_out = out + (long long)blockIdx.y * n_bands * width;
    int to_left = n_columns - width, row = thread / width, place = thread % width;
    int row_step = threads / width, place_step = threads % width;
    for (int first = thread; first < n_bands * width; first += AT_ONCE * threads) {
        bool is_there[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) {
            int from = place + to_left;
            is_there[j] = from >= 0 && row < n_bands;
            values[j] = is_there[j] ? __ldcg(clip_db + row * n_columns + from) : 0.f;
            bool is_next = place + place_step >= width;
            row += row_step + is_next;
            place += place_step - (is_next ? width : 0);
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) {
            int i = first + j * threads;
            float value = is_there[j] ? (larger(least, values[j]) - mean) / std : 0.f;
            if (i < n_bands * width) clip_out[i] = value;
        }
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
