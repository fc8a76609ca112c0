// Aligned, antialiased crops of camera frames as normalised pixels: image.crop and image.normalise_into in one.
//
// One thread makes one pixel of one crop, all three channels; neighbouring threads write neighbouring
// numbers. Coordinates among the frame's blocks are 64-bit integers with 32 bits behind the point: exact to a
// millionth of a pixel anywhere in a frame, without double precision.

struct Crop {
    const unsigned char* frame;   // first row; null: there is no frame, and the crop is black
    const unsigned char* chroma;  // first row of NV12's second plane
    long long out;                // where the crop's first number lies in the output
    long long start_x, start_y;   // of the first sample of the crop's first pixel, among the frame's blocks
    long long column_x, column_y; // from a pixel of the crop to the next in its row
    long long row_x, row_y;       // from a row of the crop to the next
    long long across_x, across_y; // from a sample to the next one across the pixel
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

// Adds the weighted pixels of the four blocks around (x, y), of any frame and any place.
__device__ __forceinline__ void add_sample(const Crop& crop, long long x, long long y, Colour& sum) {
    const float unit = 1.f / 4294967296.f;
    int left = (int)(x >> 32), top = (int)(y >> 32);
    float right_weight = (float)(unsigned)x * unit, lower_weight = (float)(unsigned)y * unit;
    float wd = right_weight * lower_weight, wc = lower_weight - wd, wb = right_weight - wd;
    add_block(crop, left, top, 1.f - right_weight - wc, sum);
    add_block(crop, left + 1, top, wb, sum);
    add_block(crop, left, top + 1, wc, sum);
    add_block(crop, left + 1, top + 1, wd, sum);
}

// Bytes times weights of 16 bits; 4 samples of 4 blocks of 16 pixels just fit.
struct Sums {
    unsigned r, g, b;
};

// Adds two pixels of three bytes beside each other, out of the three aligned words that hold them. `place` is where
// they begin, in bytes from `words`; the weights have 32 bits, whose halves are summed apart.
__device__ __forceinline__ void add_two_pixels(const unsigned char* words, unsigned place, unsigned left_weight,
                                               unsigned right_weight, Sums& upper, Sums& lower) {
    const unsigned* three = (const unsigned*)(words + (place & ~3u));
    unsigned middle = __ldg(three + 1), shift = 8 * place;  // of which the shift takes the last 5 bits
    unsigned first = __funnelshift_r(__ldg(three), middle, shift);
    unsigned second = __funnelshift_r(middle, __ldg(three + 2), shift);
    unsigned red_green = __byte_perm(first, second, 0x4130), blue = __byte_perm(first, second, 0x5252);
    unsigned upper_weights = __byte_perm(left_weight, right_weight, 0x7632);
    unsigned lower_weights = __byte_perm(left_weight, right_weight, 0x5410);
    upper.r = __dp2a_lo(upper_weights, red_green, upper.r);
    upper.g = __dp2a_hi(upper_weights, red_green, upper.g);
    upper.b = __dp2a_lo(upper_weights, blue, upper.b);
    lower.r = __dp2a_lo(lower_weights, red_green, lower.r);
    lower.g = __dp2a_hi(lower_weights, red_green, lower.g);
    lower.b = __dp2a_lo(lower_weights, blue, lower.b);
}

__device__ __forceinline__ float joined(unsigned upper, unsigned lower) {
    return (float)upper * (1.f / 65536.f) + (float)lower * (1.f / 4294967296.f);
}

// Adds a row of two blocks beside each other, `place` bytes from `words`.
__device__ __forceinline__ void add_row(const unsigned char* words, unsigned place, int block, unsigned left_weight,
                                        unsigned right_weight, Sums& upper, Sums& lower) {
    int last = 2 * block;
    for (int x = 0; x < last; x += 2, place += 6)
        add_two_pixels(words, place, x < block ? left_weight : right_weight,
                       x + 1 < block ? left_weight : right_weight, upper, lower);
}

// The same where all four blocks lie in a frame of three bytes per pixel: in integers.
__device__ __forceinline__ void add_sample_of_bytes(const Crop& crop, long long x, long long y, Sums& upper,
                                                    Sums& lower) {
    const unsigned char* words = (const unsigned char*)((size_t)crop.frame & ~(size_t)3);
    unsigned right = (unsigned)x, left = ~right, under = (unsigned)y;
    unsigned right_under = __umulhi(right, under), left_under = __umulhi(left, under);
    unsigned right_over = right - right_under, left_over = left - left_under;
    unsigned place = (unsigned)((size_t)crop.frame & 3);
    place += (unsigned)crop.block * ((unsigned)(y >> 32) * crop.pitch + 3 * (unsigned)(x >> 32));
    for (int row = 0; row < crop.block; ++row, place += crop.pitch)
        add_row(words, place, crop.block, left_over, right_over, upper, lower);
    for (int row = 0; row < crop.block; ++row, place += crop.pitch)
        add_row(words, place, crop.block, left_under, right_under, upper, lower);
}

// Whether the four blocks around (x, y) lie in the frame, with what whole words reach beyond them: up to six bytes.
__device__ __forceinline__ bool is_within(const Crop& crop, long long x, long long y) {
    int left = (int)(x >> 32) * crop.block, top = (int)(y >> 32) * crop.block, side = 2 * crop.block;
    return left >= 0 && left + side + 2 <= crop.width && top >= 0 && top + side <= crop.height;
}

__device__ __forceinline__ Colour averaged(const Crop& crop, int column, int row) {
    Colour sum = {0.f, 0.f, 0.f};
    if (!crop.frame) return sum;
    Sums upper = {0, 0, 0}, lower = {0, 0, 0};
    // Of three bytes per pixel, its places in bytes fit into 31 bits, and its sums into 32.
    bool is_plain = crop.layout < 2 && (long long)crop.pitch * crop.height < 1LL << 31 && crop.block <= 4;
    long long x0 = crop.start_x + column * crop.column_x + row * crop.row_x;
    long long y0 = crop.start_y + column * crop.column_y + row * crop.row_y;
    for (int down = 0; down < crop.n; ++down, x0 += crop.down_x, y0 += crop.down_y) {
        long long x = x0, y = y0;
        for (int across = 0; across < crop.n; ++across, x += crop.across_x, y += crop.across_y) {
            if (is_plain && is_within(crop, x, y))
                add_sample_of_bytes(crop, x, y, upper, lower);
            else
                add_sample(crop, x, y, sum);
        }
    }
    float share = 1.f / (float)(crop.n * crop.n * crop.block * crop.block);
    sum = {(sum.r + joined(upper.r, lower.r)) * share, (sum.g + joined(upper.g, lower.g)) * share,
           (sum.b + joined(upper.b, lower.b)) * share};
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
