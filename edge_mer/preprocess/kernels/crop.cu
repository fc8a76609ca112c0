// Aligned, antialiased crops of camera frames as normalised pixels: image.crop and image.normalise_into in one.
//
// One thread makes one pixel of one crop, all three channels; neighbouring threads write neighbouring
// numbers. Coordinates in the frame are 64-bit integers with 32 bits behind the point: exact to a millionth of
// a pixel anywhere in a frame, without double precision.

struct Crop {
    const unsigned char* frame;   // first row; null: there is no frame, and the crop is black
    const unsigned char* chroma;  // first row of NV12's second plane
    long long out;                // where the crop's first number lies in the output
    long long start_x, start_y;   // of the first sample of the crop's first pixel, in the frame
    long long column_x, column_y; // from a pixel of the crop to the next in its row
    long long row_x, row_y;       // from a row of the crop to the next
    long long across_x, across_y; // from a sample to the next one across the pixel
    long long down_x, down_y;     // and down it
    int width, height, pitch;     // of the frame, the last in bytes
    int layout;                   // 0 RGB, 1 BGR, 2 NV12, 3 YUYV
    int n;                        // samples per side
    int unused;
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

// Two pixels of three bytes each, beside each other, out of the three aligned words that hold them.
__device__ __forceinline__ void two_pixels(const unsigned char* bytes, Colour& left, Colour& right) {
    unsigned shift = (unsigned)((size_t)bytes & 3);
    const unsigned* words = (const unsigned*)(bytes - shift);
    unsigned middle = __ldg(words + 1);
    unsigned low = __funnelshift_r(__ldg(words), middle, 8 * shift);
    unsigned high = __funnelshift_r(middle, __ldg(words + 2), 8 * shift);
    left = {(float)(low & 255), (float)(low >> 8 & 255), (float)(low >> 16 & 255)};
    right = {(float)(low >> 24), (float)(high & 255), (float)(high >> 8 & 255)};
}

__device__ __forceinline__ Colour mixed(Colour a, Colour b, float weight) {
    return {a.r + (b.r - a.r) * weight, a.g + (b.g - a.g) * weight, a.b + (b.b - a.b) * weight};
}

__device__ __forceinline__ Colour bilinear(const Crop& crop, long long x, long long y) {
    const float unit = 1.f / (1 << 24);
    int left = (int)(x >> 32), top = (int)(y >> 32);
    float right_weight = (float)((unsigned)x >> 8) * unit, lower_weight = (float)((unsigned)y >> 8) * unit;
    Colour a, b, c, d;
    bool is_packed = crop.layout < 2;
    // Three words reach up to six bytes further than two pixels: they must lie in the row.
    if (is_packed && left >= 0 && left + 3 < crop.width && top >= 0 && top + 1 < crop.height) {
        const unsigned char* bytes = crop.frame + (long long)top * crop.pitch + 3 * left;
        two_pixels(bytes, a, b);
        two_pixels(bytes + crop.pitch, c, d);
    } else {
        a = pixel(crop, left, top);
        b = pixel(crop, left + 1, top);
        c = pixel(crop, left, top + 1);
        d = pixel(crop, left + 1, top + 1);
    }
    return mixed(mixed(a, b, right_weight), mixed(c, d, right_weight), lower_weight);
}

__device__ __forceinline__ Colour averaged(const Crop& crop, int column, int row) {
    Colour sum = {0.f, 0.f, 0.f};
    if (!crop.frame) return sum;
    long long x0 = crop.start_x + column * crop.column_x + row * crop.row_x;
    long long y0 = crop.start_y + column * crop.column_y + row * crop.row_y;
    for (int down = 0; down < crop.n; ++down, x0 += crop.down_x, y0 += crop.down_y) {
        long long x = x0, y = y0;
        for (int across = 0; across < crop.n; ++across, x += crop.across_x, y += crop.across_y) {
            Colour sample = bilinear(crop, x, y);
            sum.r += sample.r;
            sum.g += sample.g;
            sum.b += sample.b;
        }
    }
    float share = 1.f / (float)(crop.n * crop.n);
    sum = {sum.r * share, sum.g * share, sum.b * share};
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
    const Crop& crop = crops[blockIdx.z];
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
