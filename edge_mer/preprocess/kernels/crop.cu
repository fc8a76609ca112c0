// Aligned, antialiased crops of camera frames as normalised pixels: image.crop and image.normalise_into in one.
//
// One thread makes one pixel of one crop, all three channels; neighbouring threads write neighbouring
// numbers. Samples lie at multiples of 1/32 among the frame's blocks, and are found in 64-bit integers as its twin
// finds them: both agree on every place, without double precision.

struct Crop {
    const unsigned char* frame;   // first row; null: there is no frame, and the crop is black
    const unsigned char* chroma;  // first row of NV12's second plane
    long long out;                // where the crop's first number lies in the output
    long long start_x, start_y;   // of the first sample, among the frame's blocks; in 2^-32 of one
    long long across_x, across_y; // from a sample to the next one across the crop
    long long down_x, down_y;     // and down it
    int width, height, pitch;     // of the frame, the last in bytes
    int layout;                   // 0 RGB, 1 BGR, 2 NV12, 3 YUYV
    int n;                        // samples per side, 1 or 2
    int block;                    // pixels per side of a block, 1 to 16
};

struct Colour {
    float r, g, b;  // of a frame in BGR the other way round, until the very end
};

// BT.601, limited range, in integers of 20 bits behind the point, as OpenCV does it.
__device__ __forceinline__ Colour of_yuv(int y, int u, int v) {
    y = max(y - 16, 0) * 1220542 + (1 << 19);
    u -= 128;
    v -= 128;
    return {(float)min(max((y + 1673527 * v) >> 20, 0), 255),
            (float)min(max((y - 852492 * v - 409993 * u) >> 20, 0), 255),
            (float)min(max((y + 2116026 * u) >> 20, 0), 255)};
}

__device__ __forceinline__ Colour pixel(const Crop& crop, int x, int y) {
    if ((unsigned)x >= (unsigned)crop.width || (unsigned)y >= (unsigned)crop.height) return {0.f, 0.f, 0.f};
    const unsigned char* row = crop.frame + (long long)y * crop.pitch;
    if (crop.layout == 2) {
        const unsigned char* pair = crop.chroma + (long long)(y >> 1) * crop.pitch + (x & ~1);
        return of_yuv(__ldg(row + x), __ldg(pair), __ldg(pair + 1));
    }
    if (crop.layout == 3) {
        const unsigned char* pair = row + 4 * (x >> 1);
        return of_yuv(__ldg(pair + 2 * (x & 1)), __ldg(pair + 1), __ldg(pair + 3));
    }
    const unsigned char* bytes = row + 3 * x;
    return {(float)__ldg(bytes), (float)__ldg(bytes + 1), (float)__ldg(bytes + 2)};
}

// Adds the pixels of one of a frame's blocks, which may lie outside of it.
__device__ __forceinline__ void add_block(const Crop& crop, int block_x, int block_y, float weight, Colour& sum) {
    Colour whole = {0.f, 0.f, 0.f};
    for (int down = 0; down < crop.block; ++down) {
        for (int across = 0; across < crop.block; ++across) {
            Colour one = pixel(crop, block_x * crop.block + across, block_y * crop.block + down);
            whole = {whole.r + one.r, whole.g + one.g, whole.b + one.b};
        }
    }
    sum = {sum.r + whole.r * weight, sum.g + whole.g * weight, sum.b + whole.b * weight};
}

// A place among the frame's blocks: the block at its left and above, and how far to the next ones, in 1/32.
struct Place {
    int left, top, right_share, lower_share;
};

__device__ __forceinline__ Place place_of(const Crop& crop, int across, int down) {
    const long long rounding = 1 << 10;
    long long x = ((crop.start_x + across * crop.across_x) >> 16) + ((down * crop.down_x) >> 16) + rounding;
    long long y = ((crop.start_y + across * crop.across_y) >> 16) + ((down * crop.down_y) >> 16) + rounding;
    return {(int)(x >> 16), (int)(y >> 16), (int)(x >> 11) & 31, (int)(y >> 11) & 31};
}

// Adds 1024 times the mean of the weighted pixels of the four blocks around a place, of any frame and any place.
__device__ __forceinline__ void add_sample(const Crop& crop, const Place& at, Colour& sum) {
    int right = at.right_share, under = at.lower_share, left = 32 - right, over = 32 - under;
    add_block(crop, at.left, at.top, (float)(left * over), sum);
    add_block(crop, at.left + 1, at.top, (float)(right * over), sum);
    add_block(crop, at.left, at.top + 1, (float)(left * under), sum);
    add_block(crop, at.left + 1, at.top + 1, (float)(right * under), sum);
}

// Bytes times weights; 4 samples of 4 blocks of 256 pixels, whose weights add up to 1024 each, fit.
struct Sums {
    unsigned r, g, b;
};

// Adds two pixels of three bytes beside each other, out of the three aligned words that hold them. `place` is where
// they begin, in bytes from `words`; the weight of the second stands in the upper half of `weights`.
__device__ __forceinline__ void add_two_pixels(const unsigned char* words, unsigned place, unsigned weights,
                                               Sums& sums) {
    const unsigned* three = (const unsigned*)(words + (place & ~3u));
    unsigned middle = __ldg(three + 1), shift = 8 * place;  // of which the shift takes the last 5 bits
    unsigned first = __funnelshift_r(__ldg(three), middle, shift);
    unsigned second = __funnelshift_r(middle, __ldg(three + 2), shift);
    unsigned red_green = __byte_perm(first, second, 0x4130), blue = __byte_perm(first, second, 0x5252);
    sums.r = __dp2a_lo(weights, red_green, sums.r);
    sums.g = __dp2a_hi(weights, red_green, sums.g);
    sums.b = __dp2a_lo(weights, blue, sums.b);
}

// Adds a row of two blocks beside each other, `place` bytes from `words`.
__device__ __forceinline__ void add_row(const unsigned char* words, unsigned place, int block, unsigned left_weight,
                                        unsigned right_weight, Sums& sums) {
    int last = 2 * block;
    for (int x = 0; x < last; x += 2, place += 6) {
        unsigned first = x < block ? left_weight : right_weight, second = x + 1 < block ? left_weight : right_weight;
        add_two_pixels(words, place, first | second << 16, sums);
    }
}

// The same where all four blocks lie in a frame of three bytes per pixel: in integers.
__device__ __forceinline__ void add_sample_of_bytes(const Crop& crop, const Place& at, Sums& sums) {
    const unsigned char* words = (const unsigned char*)((size_t)crop.frame & ~(size_t)3);
    unsigned right = at.right_share, under = at.lower_share, left = 32 - right, over = 32 - under;
    unsigned place = (unsigned)((size_t)crop.frame & 3);
    place += (unsigned)crop.block * ((unsigned)at.top * crop.pitch + 3 * (unsigned)at.left);
    for (int row = 0; row < crop.block; ++row, place += crop.pitch)
        add_row(words, place, crop.block, left * over, right * over, sums);
    for (int row = 0; row < crop.block; ++row, place += crop.pitch)
        add_row(words, place, crop.block, left * under, right * under, sums);
}

// Whether the four blocks around a place lie in the frame, with what whole words reach beyond them: up to six bytes.
__device__ __forceinline__ bool is_within(const Crop& crop, const Place& at) {
    int left = at.left * crop.block, top = at.top * crop.block, side = 2 * crop.block;
    return left >= 0 && left + side + 2 <= crop.width && top >= 0 && top + side <= crop.height;
}

__device__ __forceinline__ Colour averaged(const Crop& crop, int column, int row) {
    Colour sum = {0.f, 0.f, 0.f};
    if (!crop.frame) return sum;
    Sums sums = {0, 0, 0};
    // Of three bytes per pixel, and its places in bytes fit into 31 bits.
    bool is_plain = crop.layout < 2 && (long long)crop.pitch * crop.height < 1LL << 31;
    for (int down = 0; down < crop.n; ++down) {
        for (int across = 0; across < crop.n; ++across) {
            Place at = place_of(crop, crop.n * column + across, crop.n * row + down);
            if (is_plain && is_within(crop, at))
                add_sample_of_bytes(crop, at, sums);
            else
                add_sample(crop, at, sum);
        }
    }
    float share = 1.f / (float)(1024 * crop.n * crop.n * crop.block * crop.block);
    sum = {(sum.r + (float)sums.r) * share, (sum.g + (float)sums.g) * share, (sum.b + (float)sums.b) * share};
    return crop.layout == 1 ? Colour{sum.b, sum.g, sum.r} : sum;
}

__device__ __forceinline__ void write(float* out, long long place, float value, float) { out[place] = value; }

__device__ __forceinline__ void write(unsigned short* out, long long place, float value, float) {
    out[place] = half_bits(value);
}

__device__ __forceinline__ void write(signed char* out, long long place, float value, float per_step) {
    out[place] = (signed char)min(max(__float2int_rn(value * per_step), -128), 127);
}

template <class Number>
__device__ __forceinline__ void write_crop(const Crop* crops, Number* out, int width, int height,
                                           long long channel_stride, float gain_r, float gain_g, float gain_b,
                                           float offset_r, float offset_g, float offset_b, float per_step) {
    int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= width || row >= height) return;
    const Crop crop = crops[blockIdx.z];  // once: in the loops it would be read for every sample
    Colour colour = averaged(crop, column, row);
    long long place = crop.out + (long long)row * width + column;
    write(out, place, colour.r * gain_r - offset_r, per_step);
    write(out, place + channel_stride, colour.g * gain_g - offset_g, per_step);
    write(out, place + 2 * channel_stride, colour.b * gain_b - offset_b, per_step);
}

// One grid: x and y over the crop's pixels, z over the crops. `per_step`: 1 / scale of 8-bit numbers.
#define CROP_KERNEL(name, Number)                                                                              \
    extern "C" __global__ void name(const Crop* crops, Number* out, int width, int height,                    \
                                    long long channel_stride, float gain_r, float gain_g, float gain_b,       \
                                    float offset_r, float offset_g, float offset_b, float per_step) {         \
        write_crop(crops, out, width, height, channel_stride, gain_r, gain_g, gain_b, offset_r, offset_g,     \
                   offset_b, per_step);                                                                        \
    }
CROP_KERNEL(crop_float32, float)
CROP_KERNEL(crop_float16, unsigned short)
CROP_KERNEL(crop_int8, signed char)
