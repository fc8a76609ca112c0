// What kernels need of CUDA C++, for g++: each thread of a block is a fiber, and fibers run in random order.
//
// Between two barriers the threads of a block run one after the other, in an order that is drawn anew each
// time (HOST_CUDA_SEED), and so do the blocks of a grid. A kernel that lacks a barrier, or lets two blocks
// write to one place, gives other numbers then. Shared memory is the one array `shared`, all of its floats
// NaN when a block begins.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__ static
#define __constant__ static
#define __forceinline__ inline
#define __shared__
#define __launch_bounds__(...)
#define __align__(n)

struct Triple {
    unsigned x, y, z;
};
inline Triple blockIdx, threadIdx, blockDim, gridDim;

using std::isnan;
using std::max;
using std::min;

inline int __float2int_rn(float value) {
    return std::isnan(value) ? 0 : static_cast<int>(std::nearbyint(std::max(-1e9f, std::min(value, 1e9f))));
}
inline unsigned short half_bits(float value) {  // common.cu's, which is in the GPU's own language
    _Float16 half = static_cast<_Float16>(value);
    unsigned short bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
template <class T>
T __ldg(const T* pointer) {
    return *pointer;
}
template <class T>
T __ldcg(const T* pointer) {
    return *pointer;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) result |= (bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline unsigned __dp2a_lo(unsigned halves, unsigned bytes, unsigned sum) {
    return sum + (halves & 0xffff) * (bytes & 0xff) + (halves >> 16) * (bytes >> 8 & 0xff);
}
inline unsigned __dp2a_hi(unsigned halves, unsigned bytes, unsigned sum) {
    return __dp2a_lo(halves, bytes >> 16, sum);
}
inline void __threadfence() {}
template <class T>
T atomicAdd(T* place, T value) {
    T old = *place;
    *place += value;
    return old;
}

constexpr size_t SHARED_BYTES = 163 * 1024;  // of compute capability 8.7
alignas(256) inline float shared[SHARED_BYTES / sizeof(float)];

namespace host_cuda {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t STACK_BYTES = 256 * 1024;
#else
constexpr size_t STACK_BYTES = 64 * 1024;
#endif
constexpr int SUCCESS = 0, INVALID_VALUE = 1, LAUNCH_FAILED = 719;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    bool is_done = true;
    int barrier = 0;
};

struct Scheduler {
    ucontext_t main;
    const void* main_stack = nullptr;
    size_t main_stack_bytes = 0;
    Fiber* running = nullptr;
    const std::function<void()>* kernel = nullptr;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber*> idle;
    std::mt19937 random{seed()};

    static unsigned seed() {
        const char* text = std::getenv("HOST_CUDA_SEED");
        return text ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : 1u;
    }
};
inline Scheduler scheduler;

inline void to_main() {
    Fiber* fiber = scheduler.running;
#ifdef __SANITIZE_ADDRESS__
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, scheduler.main_stack, scheduler.main_stack_bytes);
#endif
    swapcontext(&fiber->context, &scheduler.main);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, &scheduler.main_stack, &scheduler.main_stack_bytes);
#endif
}

inline void fiber_main() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.main_stack, &scheduler.main_stack_bytes);
#endif
    for (;;) {  // a fiber that is done with one thread takes the next one
        (*scheduler.kernel)();
        scheduler.running->is_done = true;
        to_main();
    }
}

inline void resume(Fiber* fiber) {
    scheduler.running = fiber;
#ifdef __SANITIZE_ADDRESS__
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber->stack.get(), STACK_BYTES);
#endif
    swapcontext(&scheduler.main, &fiber->context);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

inline Fiber* idle_fiber() {
    if (scheduler.idle.empty()) {
        scheduler.fibers.push_back(std::make_unique<Fiber>());
        Fiber* fiber = scheduler.fibers.back().get();
        getcontext(&fiber->context);
        fiber->context.uc_stack.ss_sp = fiber->stack.get();
        fiber->context.uc_stack.ss_size = STACK_BYTES;
        fiber->context.uc_link = nullptr;
        makecontext(&fiber->context, fiber_main, 0);
        return fiber;
    }
    Fiber* fiber = scheduler.idle.back();
    scheduler.idle.pop_back();
    return fiber;
}

inline void barrier(int line) {
    scheduler.running->barrier = line;
    to_main();
}

// One block: every thread up to its next barrier, in a new order each time. False: some waited elsewhere.
inline bool run_block() {
    const unsigned n = blockDim.x * blockDim.y * blockDim.z;
    std::vector<Fiber*> fiber_of(n, nullptr);
    std::vector<unsigned> alive(n), waiting;
    std::iota(alive.begin(), alive.end(), 0u);
    while (!alive.empty()) {
        std::shuffle(alive.begin(), alive.end(), scheduler.random);
        waiting.clear();
        for (unsigned thread : alive) {
            threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
                         thread / (blockDim.x * blockDim.y)};
            Fiber*& fiber = fiber_of[thread];
            if (!fiber) fiber = idle_fiber();
            fiber->is_done = false;
            resume(fiber);
            if (fiber->is_done)
                scheduler.idle.push_back(fiber);
            else
                waiting.push_back(thread);
        }
        for (unsigned thread : waiting)
            if (fiber_of[thread]->barrier != fiber_of[waiting[0]]->barrier) return false;
        alive.swap(waiting);
    }
    return true;
}

inline int run_grid(const unsigned* grid, const unsigned* block, size_t shared_bytes,
                    const std::function<void()>& kernel) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    scheduler.kernel = &kernel;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(shared, SHARED_BYTES);
    __asan_poison_memory_region(reinterpret_cast<char*>(shared) + shared_bytes, SHARED_BYTES - shared_bytes);
#endif
    std::vector<uint64_t> order(uint64_t{grid[0]} * grid[1] * grid[2]);
    std::iota(order.begin(), order.end(), uint64_t{0});
    std::shuffle(order.begin(), order.end(), scheduler.random);
    for (uint64_t index : order) {
        blockIdx = {static_cast<unsigned>(index % grid[0]), static_cast<unsigned>(index / grid[0] % grid[1]),
                    static_cast<unsigned>(index / grid[0] / grid[1])};
        std::memset(shared, 0xff, shared_bytes);
        if (!run_block()) {
            std::fprintf(stderr, "threads of one block waited at different barriers\n");
            return LAUNCH_FAILED;
        }
    }
    return SUCCESS;
}

// The arguments lie in one buffer, each at a multiple of its own size, as the driver takes them. Without a
// grid only their size is checked.
template <class... Args, size_t... Index>
int run_unpacked(void (*kernel)(Args...), const unsigned* grid, const unsigned* block, size_t shared_bytes,
                 const unsigned char* arguments, size_t n_bytes, std::index_sequence<Index...>) {
    size_t offsets[sizeof...(Args) + 1], end = 0, i = 0;
    (void)std::initializer_list<int>{
        (offsets[i] = (end + alignof(Args) - 1) / alignof(Args) * alignof(Args), end = offsets[i++] + sizeof(Args), 0)...};
    if (n_bytes != end) return INVALID_VALUE;
    if (!grid) return SUCCESS;
    std::tuple<Args...> values;
    (void)std::initializer_list<int>{
        (std::memcpy(&std::get<Index>(values), arguments + offsets[Index], sizeof(Args)), 0)...};
    return run_grid(grid, block, shared_bytes, [&] { std::apply(kernel, values); });
}

template <class... Args>
int run(void (*kernel)(Args...), const unsigned* grid, const unsigned* block, size_t shared_bytes,
        const unsigned char* arguments, size_t n_bytes) {
    return run_unpacked(kernel, grid, block, shared_bytes, arguments, n_bytes, std::index_sequence_for<Args...>{});
}

}  // namespace host_cuda

#define __syncthreads() host_cuda::barrier(__LINE__)

// Where the driver finds a kernel.
#define HOST_KERNEL(name)                                                                                \
    extern "C" int host_kernel_##name(const unsigned* grid, const unsigned* block, size_t shared_bytes, \
                                      const unsigned char* arguments, size_t n_bytes) {                  \
        return host_cuda::run(name, grid, block, shared_bytes, arguments, n_bytes);                      \
    }
