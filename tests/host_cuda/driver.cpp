// libcuda.so.1 for a machine without a GPU: device memory is host memory, kernels are compiled by g++.
//
// What is asynchronous on a GPU is put off here until somebody waits for it, so that a missing wait shows.
// README.md says which environment variables there are.
#include <cuda.h>
#include <dlfcn.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

struct Allocation {
    void* memory;
    size_t n_bytes;
    bool is_host, is_mapped;
};
struct Event {
    std::chrono::steady_clock::time_point time;
    bool is_recorded = false, is_pending = false;
};
struct Module {
    std::string image;
};
using HostKernel = int (*)(const unsigned*, const unsigned*, size_t, const unsigned char*, size_t);
struct Function {
    HostKernel run;
    size_t most_shared_bytes = 48 * 1024;
};
struct Counters {
    int64_t device_allocations, device_bytes, host_allocations, host_bytes, streams, events, modules, contexts;
};

constexpr int CAPABILITY[] = {8, 7};
constexpr size_t SHARED_LIMIT = 163 * 1024;

std::recursive_mutex everything;
std::map<uintptr_t, Allocation> allocations;
std::deque<std::function<CUresult()>> pending;
Counters live{};
CUresult failure = CUDA_SUCCESS;  // a kernel's failure stays, as on a GPU
int context_place;
thread_local std::vector<CUcontext> contexts;

long long number(const char* name, long long otherwise) {
    const char* text = std::getenv(name);
    return text && *text ? std::strtoll(text, nullptr, 10) : otherwise;
}
bool is_integrated() { return number("HOST_CUDA_INTEGRATED", 0) != 0; }
size_t total_bytes() { return static_cast<size_t>(number("HOST_CUDA_BYTES", 8ll << 30)); }
size_t used_bytes() { return live.device_bytes + (is_integrated() ? live.host_bytes : 0); }
CUcontext the_context() { return reinterpret_cast<CUcontext>(&context_place); }

// What a capture records instead of putting it into the queue.
struct Graph {
    std::vector<std::function<CUresult()>> work;
};
Graph* capturing = nullptr;
int64_t graphs = 0;

CUresult drain() {
    if (capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    while (!pending.empty()) {
        auto work = std::move(pending.front());
        pending.pop_front();
        if (failure == CUDA_SUCCESS) failure = work();
    }
    return failure;
}
CUresult later(std::function<CUresult()> work) {
    if (capturing) {
        capturing->work.push_back(std::move(work));
        return CUDA_SUCCESS;
    }
    if (failure == CUDA_SUCCESS) pending.push_back(std::move(work));
    return failure;
}

// Does [address, address + n) lie within one live allocation that the GPU can see?
bool is_on_gpu(uintptr_t address, size_t n) {
    auto after = allocations.upper_bound(address);
    if (after == allocations.begin()) return false;
    const auto& [start, allocation] = *std::prev(after);
    bool is_visible = !allocation.is_host || allocation.is_mapped;
    return is_visible && address + n <= start + allocation.n_bytes;
}

CUresult allocate(void** place, size_t n, bool is_host, bool is_mapped) {
    if (n == 0) return CUDA_ERROR_INVALID_VALUE;
    if (capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if ((!is_host || is_integrated()) && used_bytes() + n > total_bytes()) return CUDA_ERROR_OUT_OF_MEMORY;
    if (posix_memalign(place, 256, n)) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(*place, 0xff, n);  // floats are NaN until somebody writes
    allocations[reinterpret_cast<uintptr_t>(*place)] = {*place, n, is_host, is_mapped};
    (is_host ? live.host_allocations : live.device_allocations) += 1;
    (is_host ? live.host_bytes : live.device_bytes) += static_cast<int64_t>(n);
    return CUDA_SUCCESS;
}
CUresult release(uintptr_t address, bool is_host) {
    drain();
    auto found = allocations.find(address);
    if (found == allocations.end() || found->second.is_host != is_host) return CUDA_ERROR_INVALID_VALUE;
    (is_host ? live.host_allocations : live.device_allocations) -= 1;
    (is_host ? live.host_bytes : live.device_bytes) -= static_cast<int64_t>(found->second.n_bytes);
    free(found->second.memory);
    allocations.erase(found);
    return CUDA_SUCCESS;
}

// The length of an ELF file, which ends with its table of sections.
size_t elf_bytes(const unsigned char* image) {
    uint64_t table;
    uint16_t entry, count;
    std::memcpy(&table, image + 40, 8);
    std::memcpy(&entry, image + 58, 2);
    std::memcpy(&count, image + 60, 2);
    return table + uint64_t{entry} * count;
}
// A cubin runs on its own capability and on later ones of the same major number.
CUresult check_image(const unsigned char* image) {
    constexpr unsigned EM_CUDA = 190;
    if (std::memcmp(image, "\x7f" "ELF", 4) || image[18] != EM_CUDA) return CUDA_ERROR_INVALID_IMAGE;
    uint32_t flags;
    std::memcpy(&flags, image + 48, 4);
    int sm = image[8] >= 8 ? flags >> 8 & 0xff : flags & 0xff;
    bool fits = sm / 10 == CAPABILITY[0] && sm % 10 <= CAPABILITY[1];
    return fits ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

void* kernels() {
    static void* library = dlopen(std::getenv("HOST_CUDA_KERNELS"), RTLD_NOW);
    if (!library) std::fprintf(stderr, "HOST_CUDA_KERNELS: %s\n", dlerror());
    return library;
}

const char* text_of(CUresult code) {
    switch (code) {
        case CUDA_SUCCESS: return "no error";
        case CUDA_ERROR_INVALID_VALUE: return "invalid argument";
        case CUDA_ERROR_OUT_OF_MEMORY: return "out of memory";
        case CUDA_ERROR_NO_DEVICE: return "no CUDA-capable device is detected";
        case CUDA_ERROR_INVALID_DEVICE: return "invalid device ordinal";
        case CUDA_ERROR_INVALID_IMAGE: return "device kernel image is invalid";
        case CUDA_ERROR_INVALID_CONTEXT: return "invalid device context";
        case CUDA_ERROR_NO_BINARY_FOR_GPU: return "no kernel image is available for execution on the device";
        case CUDA_ERROR_NOT_FOUND: return "named symbol not found";
        case CUDA_ERROR_NOT_READY: return "device not ready";
        case CUDA_ERROR_LAUNCH_FAILED: return "unspecified launch failure";
        case CUDA_ERROR_NOT_SUPPORTED: return "operation not supported";
        default: return "error of the host driver";
    }
}

}  // namespace

#define API extern "C" CUresult CUDAAPI
#define BEGIN                                                                       \
    std::lock_guard<std::recursive_mutex> guard(everything);                        \
    if (number("HOST_CUDA_NO_DEVICE", 0)) return CUDA_ERROR_NO_DEVICE
#define BEGIN_IN_CONTEXT \
    BEGIN;               \
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT

// What tests read: live allocations and objects, as eight int64.
extern "C" void host_cuda_live(Counters* out) { *out = live; }
extern "C" int64_t host_cuda_graphs() { return graphs; }
extern "C" int64_t host_cuda_pending() { return static_cast<int64_t>(pending.size()); }

// -- driver and device ------------------------------------------------------------------------------------

API cuInit(unsigned) {
    BEGIN;
    return CUDA_SUCCESS;
}
API cuDriverGetVersion(int* version) {
    *version = 13000;
    return CUDA_SUCCESS;
}
// NVRTC asks for tables that only the real driver has.
API cuGetExportTable(const void** table, const CUuuid*) {
    *table = nullptr;
    return CUDA_ERROR_NOT_FOUND;
}
API cuGetErrorString(CUresult code, const char** text) {
    *text = text_of(code);
    return CUDA_SUCCESS;
}
API cuDeviceGetCount(int* count) {
    BEGIN;
    *count = 1;
    return CUDA_SUCCESS;
}
API cuDeviceGet(CUdevice* device, int ordinal) {
    BEGIN;
    *device = ordinal;
    return ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}
API cuDeviceGetName(char* name, int length, CUdevice) {
    BEGIN;
    std::snprintf(name, static_cast<size_t>(length), "host CUDA");
    return CUDA_SUCCESS;
}
API cuDeviceComputeCapability(int* major, int* minor, CUdevice) {
    BEGIN;
    *major = CAPABILITY[0];
    *minor = CAPABILITY[1];
    return CUDA_SUCCESS;
}
API cuDeviceTotalMem_v2(size_t* n, CUdevice) {
    BEGIN;
    *n = total_bytes();
    return CUDA_SUCCESS;
}
API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    BEGIN;
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = is_integrated(); break;
        case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: *value = 1; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = CAPABILITY[0]; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = CAPABILITY[1]; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 16; break;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = 16 << 10; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = SHARED_LIMIT; break;
        default: return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}

// -- contexts ---------------------------------------------------------------------------------------------

API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
    BEGIN;
    *context = the_context();
    live.contexts += 1;
    return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(CUdevice) {
    BEGIN;
    live.contexts -= 1;
    return CUDA_SUCCESS;
}
API cuCtxPushCurrent_v2(CUcontext context) {
    BEGIN;
    contexts.push_back(context);
    return CUDA_SUCCESS;
}
API cuCtxPopCurrent_v2(CUcontext* context) {
    BEGIN_IN_CONTEXT;
    *context = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
}
API cuCtxGetDevice(CUdevice* device) {
    BEGIN_IN_CONTEXT;
    *device = 0;
    return CUDA_SUCCESS;
}
API cuCtxGetCurrent(CUcontext* context) {
    BEGIN;
    *context = contexts.empty() ? nullptr : contexts.back();
    return CUDA_SUCCESS;
}
API cuCtxSynchronize() {
    BEGIN_IN_CONTEXT;
    return drain();
}

// -- memory -----------------------------------------------------------------------------------------------

API cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    BEGIN_IN_CONTEXT;
    *total = total_bytes();
    *free_bytes = *total - used_bytes();
    return CUDA_SUCCESS;
}
API cuMemAlloc_v2(CUdeviceptr* pointer, size_t n) {
    BEGIN_IN_CONTEXT;
    void* memory = nullptr;
    CUresult result = allocate(&memory, n, false, false);
    *pointer = reinterpret_cast<CUdeviceptr>(memory);
    return result;
}
API cuMemFree_v2(CUdeviceptr pointer) {
    BEGIN_IN_CONTEXT;
    return release(pointer, false);
}
API cuMemHostAlloc(void** pointer, size_t n, unsigned flags) {
    BEGIN_IN_CONTEXT;
    return allocate(pointer, n, true, flags & CU_MEMHOSTALLOC_DEVICEMAP);
}
API cuMemFreeHost(void* pointer) {
    BEGIN_IN_CONTEXT;
    return release(reinterpret_cast<uintptr_t>(pointer), true);
}
API cuMemHostGetDevicePointer_v2(CUdeviceptr* device, void* host, unsigned) {
    BEGIN_IN_CONTEXT;
    *device = reinterpret_cast<CUdeviceptr>(host);
    return is_on_gpu(*device, 1) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
static CUresult copy(void* to, const void* from, size_t n, uintptr_t on_gpu) {
    if (!is_on_gpu(on_gpu, n)) return CUDA_ERROR_INVALID_VALUE;
    return later([=] {
        std::memmove(to, from, n);
        return CUDA_SUCCESS;
    });
}
API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t n, CUstream) {
    BEGIN_IN_CONTEXT;
    return copy(reinterpret_cast<void*>(to), from, n, to);
}
API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t n, CUstream) {
    BEGIN_IN_CONTEXT;
    return copy(to, reinterpret_cast<void*>(from), n, from);
}
API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream) {
    BEGIN_IN_CONTEXT;
    if (!is_on_gpu(from, n)) return CUDA_ERROR_INVALID_VALUE;
    return copy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), n, to);
}
static CUresult and_wait(CUresult given) { return given == CUDA_SUCCESS ? drain() : given; }
API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t n) {
    return and_wait(cuMemcpyHtoDAsync_v2(to, from, n, nullptr));
}
API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t n) {
    return and_wait(cuMemcpyDtoHAsync_v2(to, from, n, nullptr));
}
API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t n) {
    return and_wait(cuMemcpyDtoDAsync_v2(to, from, n, nullptr));
}
API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream) {
    BEGIN_IN_CONTEXT;
    if (!is_on_gpu(to, n)) return CUDA_ERROR_INVALID_VALUE;
    return later([=] {
        std::memset(reinterpret_cast<void*>(to), value, n);
        return CUDA_SUCCESS;
    });
}
API cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t n) {
    return and_wait(cuMemsetD8Async(to, value, n, nullptr));
}

// -- streams and events: one queue for all ----------------------------------------------------------------

API cuStreamCreate(CUstream* stream, unsigned) {
    BEGIN_IN_CONTEXT;
    *stream = reinterpret_cast<CUstream>(new char);
    live.streams += 1;
    return CUDA_SUCCESS;
}
API cuStreamDestroy_v2(CUstream stream) {
    BEGIN_IN_CONTEXT;
    CUresult result = drain();
    delete reinterpret_cast<char*>(stream);
    live.streams -= 1;
    return result;
}
API cuStreamSynchronize(CUstream) {
    BEGIN_IN_CONTEXT;
    return drain();
}
API cuStreamQuery(CUstream) {
    BEGIN_IN_CONTEXT;
    return pending.empty() ? failure : CUDA_ERROR_NOT_READY;
}
API cuLaunchHostFunc(CUstream, CUhostFn function, void* data) {
    BEGIN_IN_CONTEXT;
    return later([=] {
        function(data);
        return CUDA_SUCCESS;
    });
}
API cuStreamBeginCapture_v2(CUstream, CUstreamCaptureMode) {
    BEGIN_IN_CONTEXT;
    if (number("HOST_CUDA_NO_GRAPHS", 0)) return CUDA_ERROR_NOT_SUPPORTED;
    if (capturing) return CUDA_ERROR_ILLEGAL_STATE;
    capturing = new Graph;
    return CUDA_SUCCESS;
}
API cuStreamEndCapture(CUstream, CUgraph* graph) {
    BEGIN_IN_CONTEXT;
    *graph = reinterpret_cast<CUgraph>(capturing);
    graphs += capturing != nullptr;
    capturing = nullptr;
    return *graph ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_STATE;
}
API cuGraphInstantiateWithFlags(CUgraphExec* runnable, CUgraph graph, unsigned long long) {
    BEGIN_IN_CONTEXT;
    *runnable = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph*>(graph)));
    graphs += 1;
    return CUDA_SUCCESS;
}
API cuGraphLaunch(CUgraphExec runnable, CUstream) {
    BEGIN_IN_CONTEXT;
    for (const auto& work : reinterpret_cast<Graph*>(runnable)->work) later(work);
    return failure;
}
static CUresult forget(void* graph) {
    BEGIN_IN_CONTEXT;
    delete reinterpret_cast<Graph*>(graph);
    graphs -= 1;
    return CUDA_SUCCESS;
}
API cuGraphDestroy(CUgraph graph) { return forget(graph); }
API cuGraphExecDestroy(CUgraphExec runnable) { return forget(runnable); }
API cuEventCreate(CUevent* event, unsigned) {
    BEGIN_IN_CONTEXT;
    *event = reinterpret_cast<CUevent>(new Event);
    live.events += 1;
    return CUDA_SUCCESS;
}
API cuEventDestroy_v2(CUevent event) {
    BEGIN_IN_CONTEXT;
    CUresult result = drain();
    delete reinterpret_cast<Event*>(event);
    live.events -= 1;
    return result;
}
API cuEventRecord(CUevent event, CUstream) {
    BEGIN_IN_CONTEXT;
    auto mark = reinterpret_cast<Event*>(event);
    mark->is_pending = true;
    return later([=] {
        *mark = {std::chrono::steady_clock::now(), true, false};
        return CUDA_SUCCESS;
    });
}
API cuStreamWaitEvent(CUstream, CUevent, unsigned) {
    BEGIN_IN_CONTEXT;
    return CUDA_SUCCESS;
}
API cuEventSynchronize(CUevent) {
    BEGIN_IN_CONTEXT;
    return drain();
}
API cuEventQuery(CUevent event) {
    BEGIN_IN_CONTEXT;
    return reinterpret_cast<Event*>(event)->is_pending ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}
static CUresult elapsed(float* ms, CUevent from, CUevent to) {
    BEGIN_IN_CONTEXT;
    auto a = reinterpret_cast<Event*>(from), b = reinterpret_cast<Event*>(to);
    if (a->is_pending || b->is_pending) return CUDA_ERROR_NOT_READY;
    if (!a->is_recorded || !b->is_recorded) return CUDA_ERROR_INVALID_HANDLE;
    *ms = std::chrono::duration<float, std::milli>(b->time - a->time).count();
    return CUDA_SUCCESS;
}
#undef cuEventElapsedTime
API cuEventElapsedTime(float* ms, CUevent from, CUevent to) { return elapsed(ms, from, to); }
API cuEventElapsedTime_v2(float* ms, CUevent from, CUevent to) { return elapsed(ms, from, to); }

// -- modules and kernels ----------------------------------------------------------------------------------

API cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    BEGIN_IN_CONTEXT;
    auto bytes = static_cast<const unsigned char*>(image);
    if (CUresult result = check_image(bytes)) return result;
    if (!kernels()) return CUDA_ERROR_INVALID_IMAGE;
    auto loaded = new Module{std::string(reinterpret_cast<const char*>(bytes), elf_bytes(bytes))};
    *module = reinterpret_cast<CUmodule>(loaded);
    live.modules += 1;
    return CUDA_SUCCESS;
}
API cuModuleLoadData(CUmodule* module, const void* image) {
    return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr);
}
API cuModuleUnload(CUmodule module) {
    BEGIN_IN_CONTEXT;
    drain();
    delete reinterpret_cast<Module*>(module);
    live.modules -= 1;
    return CUDA_SUCCESS;
}
API cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    BEGIN_IN_CONTEXT;
    std::string section = std::string(".text.") + name + '\0';
    bool is_in_image = reinterpret_cast<Module*>(module)->image.find(section) != std::string::npos;
    void* host = dlsym(kernels(), (std::string("host_kernel_") + name).c_str());
    if (!is_in_image || !host) return CUDA_ERROR_NOT_FOUND;
    static std::map<void*, Function> functions;
    *function = reinterpret_cast<CUfunction>(&(functions[host] = {reinterpret_cast<HostKernel>(host)}));
    return CUDA_SUCCESS;
}
API cuFuncSetBlockShape(CUfunction, int, int, int) {
    BEGIN_IN_CONTEXT;
    return CUDA_SUCCESS;
}
API cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    BEGIN_IN_CONTEXT;
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_NOT_SUPPORTED;
    if (value < 0 || static_cast<size_t>(value) > SHARED_LIMIT) return CUDA_ERROR_INVALID_VALUE;
    reinterpret_cast<Function*>(function)->most_shared_bytes = static_cast<size_t>(value);
    return CUDA_SUCCESS;
}
API cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, CUstream, void** parameters, void** extra) {
    BEGIN_IN_CONTEXT;
    auto function = reinterpret_cast<Function*>(handle);
    bool fits = gx && gy && gz && gx <= 2147483647u && gy <= 65535 && gz <= 65535 && bx && by && bz &&
                bx <= 1024 && by <= 1024 && bz <= 64 && bx * by * bz <= 1024 &&
                shared_bytes <= function->most_shared_bytes;
    if (!fits || parameters || !extra) return CUDA_ERROR_INVALID_VALUE;
    auto buffer = static_cast<const char*>(extra[1]);
    std::string arguments(buffer, *static_cast<size_t*>(extra[3]));
    HostKernel run = function->run;
    if (run(nullptr, nullptr, 0, nullptr, arguments.size())) return CUDA_ERROR_INVALID_VALUE;
    return later([=] {
        unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
        auto bytes = reinterpret_cast<const unsigned char*>(arguments.data());
        return static_cast<CUresult>(run(grid, block, shared_bytes, bytes, arguments.size()));
    });
}
