// A backend for Triton that runs ONNX files with the ONNX Runtime of a Python package.
//
// It stands where NVIDIA's own onnxruntime backend stands in their containers, so that a repository runs as it
// was written: batches of several requests in one run, and a sequence's states as Triton's core hands them in
// and takes them back. Declared here is only what is called, of two stable C interfaces: Triton's backends
// (tritonbackend.h) and ONNX Runtime (onnxruntime_c_api.h, whose functions keep their places in its table).

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

extern "C" {
struct Error;
struct Model;
struct Instance;
struct Request;
struct Response;
struct Input;
struct Output;
struct State;

Error* TRITONSERVER_ErrorNew(int code, const char* message);
void TRITONSERVER_ErrorDelete(Error*);
Error* TRITONBACKEND_ModelRepository(Model*, int* kind, const char** location);
Error* TRITONBACKEND_ModelVersion(Model*, uint64_t* version);
Error* TRITONBACKEND_ModelSetState(Model*, void* state);
Error* TRITONBACKEND_ModelState(Model*, void** state);
Error* TRITONBACKEND_ModelInstanceModel(Instance*, Model** model);
Error* TRITONBACKEND_ModelInstanceReportBatchStatistics(
    Instance*, uint64_t batch_size, uint64_t start_ns, uint64_t compute_start_ns, uint64_t compute_end_ns,
    uint64_t end_ns);
Error* TRITONBACKEND_RequestInput(Request*, const char* name, Input** input);
Error* TRITONBACKEND_RequestOutputCount(Request*, uint32_t* count);
Error* TRITONBACKEND_RequestOutputName(Request*, uint32_t index, const char** name);
Error* TRITONBACKEND_RequestRelease(Request*, uint32_t flags);
Error* TRITONBACKEND_InputProperties(
    Input*, const char** name, int* type, const int64_t** shape, uint32_t* n_dims, uint64_t* n_bytes,
    uint32_t* n_buffers);
Error* TRITONBACKEND_InputBuffer(
    Input*, uint32_t index, const void** buffer, uint64_t* n_bytes, int* memory, int64_t* memory_id);
Error* TRITONBACKEND_ResponseNew(Response**, Request*);
Error* TRITONBACKEND_ResponseOutput(
    Response*, Output**, const char* name, int type, const int64_t* shape, uint32_t n_dims);
Error* TRITONBACKEND_ResponseSend(Response*, uint32_t flags, Error*);
Error* TRITONBACKEND_OutputBuffer(Output*, void** buffer, uint64_t n_bytes, int* memory, int64_t* memory_id);
Error* TRITONBACKEND_StateNew(
    State**, Request*, const char* name, int type, const int64_t* shape, uint32_t n_dims);
Error* TRITONBACKEND_StateBuffer(State*, void** buffer, uint64_t n_bytes, int* memory, int64_t* memory_id);
Error* TRITONBACKEND_StateUpdate(State*);

struct OrtApiBase {
  void* const* (*table)(uint32_t version);
  const char* (*version)();
};
const OrtApiBase* OrtGetApiBase();
}

namespace {

constexpr uint32_t kOrtVersion = 16;
constexpr int kInternal = 1;       // TRITONSERVER_ERROR_INTERNAL
constexpr uint32_t kAll = 1;       // of a request's release, and of a response's last part
constexpr int kWarnings = 2;       // ORT_LOGGING_LEVEL_WARNING

// Places in ONNX Runtime's table.
enum Place {
  kErrorMessage = 2,
  kCreateEnv = 3,
  kCreateSession = 7,
  kRun = 9,
  kCreateSessionOptions = 10,
  kSetIntraOpNumThreads = 24,
  kInputCount = 30,
  kOutputCount = 31,
  kInputName = 36,
  kOutputName = 37,
  kTensorOver = 49,
  kTensorData = 51,
  kElementType = 60,
  kNumberOfDims = 61,
  kDims = 62,
  kElementCount = 64,
  kTypeAndShape = 65,
  kCpuMemory = 69,
  kAllocator = 78,
  kReleaseStatus = 93,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseTypeAndShape = 99,
};

void* const* table() {
  static void* const* found = OrtGetApiBase()->table(kOrtVersion);
  return found;
}

template <typename... Arguments>
void* call(Place place, Arguments... arguments) {
  return reinterpret_cast<void* (*)(Arguments...)>(table()[place])(arguments...);
}

// What went wrong, as text; everything below throws it.
void check(void* status) {
  if (status == nullptr) return;
  std::string said = static_cast<const char*>(call(kErrorMessage, static_cast<const void*>(status)));
  call(kReleaseStatus, status);
  throw said;
}

void check(Error* error, const char* what) {
  if (error == nullptr) return;
  TRITONSERVER_ErrorDelete(error);
  throw std::string("Triton refused ") + what;
}

// Triton's types and ONNX Runtime's, with their sizes, where models have them.
struct Type {
  int triton, ort;
  size_t n_bytes;
};
constexpr Type kTypes[] = {{1, 9, 1}, {9, 7, 8}, {11, 1, 4}};

Type of_triton(int number) {
  for (const Type& type : kTypes)
    if (type.triton == number) return type;
  throw "a tensor of Triton's type " + std::to_string(number);
}

Type of_ort(int number) {
  for (const Type& type : kTypes)
    if (type.ort == number) return type;
  throw "a tensor of ONNX Runtime's type " + std::to_string(number);
}

struct Session {
  void* session = nullptr;
  void* memory = nullptr;
  std::vector<std::string> inputs, outputs;

  explicit Session(const std::string& path) {
    static void* environment = nullptr;
    if (environment == nullptr) check(call(kCreateEnv, kWarnings, "triton", &environment));
    void *options = nullptr, *allocator = nullptr;
    check(call(kCreateSessionOptions, &options));
    check(call(kSetIntraOpNumThreads, options, 1));
    check(call(kCreateSession, environment, path.c_str(), static_cast<const void*>(options), &session));
    check(call(kCpuMemory, 0, 0, &memory));
    check(call(kAllocator, &allocator));
    inputs = names(kInputCount, kInputName, allocator);
    outputs = names(kOutputCount, kOutputName, allocator);
  }

  ~Session() {
    if (session != nullptr) call(kReleaseSession, session);
  }

  std::vector<std::string> names(Place count, Place name, void* allocator) {
    size_t n = 0;
    check(call(count, static_cast<const void*>(session), &n));
    std::vector<std::string> found;
    for (size_t i = 0; i < n; ++i) {
      char* one = nullptr;
      check(call(name, static_cast<const void*>(session), i, allocator, &one));
      found.emplace_back(one);
    }
    return found;
  }
};

// An input of all requests in one piece, along the batch.
struct Gathered {
  std::vector<char> data;
  std::vector<int64_t> shape;
  int type = 0;
};

Gathered gather(const std::string& name, Request** requests, uint32_t n, std::vector<int64_t>* batches) {
  Gathered all;
  batches->clear();
  for (uint32_t i = 0; i < n; ++i) {
    Input* input = nullptr;
    check(TRITONBACKEND_RequestInput(requests[i], name.c_str(), &input), name.c_str());
    const char* told = nullptr;
    const int64_t* shape = nullptr;
    uint32_t n_dims = 0, n_buffers = 0;
    uint64_t n_bytes = 0;
    check(TRITONBACKEND_InputProperties(input, &told, &all.type, &shape, &n_dims, &n_bytes, &n_buffers), "it");
    if (i == 0) {
      all.shape.assign(shape, shape + n_dims);
    } else {
      if (!std::equal(all.shape.begin() + 1, all.shape.end(), shape + 1)) throw name + " has other sizes";
      all.shape[0] += shape[0];
    }
    batches->push_back(shape[0]);
    for (uint32_t k = 0; k < n_buffers; ++k) {
      const void* buffer = nullptr;
      int memory = 0;
      int64_t memory_id = 0;
      check(TRITONBACKEND_InputBuffer(input, k, &buffer, &n_bytes, &memory, &memory_id), "a buffer");
      const char* first = static_cast<const char*>(buffer);
      all.data.insert(all.data.end(), first, first + n_bytes);
    }
  }
  return all;
}

bool is_asked_for(Request* request, const std::string& name) {
  uint32_t n = 0;
  check(TRITONBACKEND_RequestOutputCount(request, &n), "a count");
  for (uint32_t i = 0; i < n; ++i) {
    const char* one = nullptr;
    check(TRITONBACKEND_RequestOutputName(request, i, &one), "a name");
    if (name == one) return true;
  }
  return false;
}

// One output's part of one request: into its response, or else into the state of that name.
void hand_out(
    const std::string& name, Request* request, Response* response, const Type& type,
    const std::vector<int64_t>& shape, const char* data, size_t n_bytes) {
  void* buffer = nullptr;
  int memory = 0;  // the processor's
  int64_t memory_id = 0;
  if (is_asked_for(request, name)) {
    Output* output = nullptr;
    check(TRITONBACKEND_ResponseOutput(
              response, &output, name.c_str(), type.triton, shape.data(), shape.size()), name.c_str());
    check(TRITONBACKEND_OutputBuffer(output, &buffer, n_bytes, &memory, &memory_id), name.c_str());
    std::memcpy(buffer, data, n_bytes);
    return;
  }
  State* state = nullptr;
  Error* none = TRITONBACKEND_StateNew(&state, request, name.c_str(), type.triton, shape.data(), shape.size());
  if (none != nullptr) {  // an output that nobody asked for
    TRITONSERVER_ErrorDelete(none);
    return;
  }
  check(TRITONBACKEND_StateBuffer(state, &buffer, n_bytes, &memory, &memory_id), name.c_str());
  std::memcpy(buffer, data, n_bytes);
  check(TRITONBACKEND_StateUpdate(state), name.c_str());
}

uint64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One run for all requests; how many rows it had.
uint64_t run(Session* one, Request** requests, uint32_t n, std::vector<Response*>& responses) {
  std::vector<int64_t> batches;
  std::map<std::string, Gathered> inputs;
  std::vector<void*> given, found(one->outputs.size(), nullptr);
  std::vector<const char*> input_names, output_names;
  for (const std::string& name : one->inputs) {
    Gathered& all = inputs[name] = gather(name, requests, n, &batches);
    void* value = nullptr;
    check(call(
        kTensorOver, static_cast<const void*>(one->memory), static_cast<void*>(all.data.data()),
        all.data.size(), static_cast<const int64_t*>(all.shape.data()), all.shape.size(),
        of_triton(all.type).ort, &value));
    given.push_back(value);
    input_names.push_back(name.c_str());
  }
  for (const std::string& name : one->outputs) output_names.push_back(name.c_str());
  check(call(
      kRun, one->session, static_cast<const void*>(nullptr), static_cast<const char* const*>(input_names.data()),
      static_cast<void* const*>(given.data()), given.size(),
      static_cast<const char* const*>(output_names.data()), output_names.size(), found.data()));
  for (size_t k = 0; k < found.size(); ++k) {
    void* facts = nullptr;
    int number = 0;
    size_t n_dims = 0, n_numbers = 0;
    void* data = nullptr;
    check(call(kTypeAndShape, static_cast<const void*>(found[k]), &facts));
    check(call(kElementType, static_cast<const void*>(facts), &number));
    check(call(kNumberOfDims, static_cast<const void*>(facts), &n_dims));
    check(call(kElementCount, static_cast<const void*>(facts), &n_numbers));
    std::vector<int64_t> shape(n_dims);
    check(call(kDims, static_cast<const void*>(facts), shape.data(), n_dims));
    check(call(kTensorData, found[k], &data));
    const Type type = of_ort(number);
    const size_t row = n_numbers / shape[0] * type.n_bytes;
    const char* next = static_cast<const char*>(data);
    for (uint32_t i = 0; i < n; ++i) {
      shape[0] = batches[i];
      hand_out(one->outputs[k], requests[i], responses[i], type, shape, next, row * batches[i]);
      next += row * batches[i];
    }
    call(kReleaseTypeAndShape, facts);
    call(kReleaseValue, found[k]);
  }
  for (void* value : given) call(kReleaseValue, value);
  return std::accumulate(batches.begin(), batches.end(), uint64_t{0});
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) Error* TRITONBACKEND_ModelInitialize(Model* model) {
  try {
    int kind = 0;
    const char* folder = nullptr;
    uint64_t version = 0;
    check(TRITONBACKEND_ModelRepository(model, &kind, &folder), "its folder");
    check(TRITONBACKEND_ModelVersion(model, &version), "its version");
    const std::string path = std::string(folder) + "/" + std::to_string(version) + "/model.onnx";
    check(TRITONBACKEND_ModelSetState(model, new Session(path)), "a session");
    return nullptr;
  } catch (const std::string& said) {
    return TRITONSERVER_ErrorNew(kInternal, said.c_str());
  }
}

__attribute__((visibility("default"))) Error* TRITONBACKEND_ModelFinalize(Model* model) {
  void* held = nullptr;
  Error* error = TRITONBACKEND_ModelState(model, &held);
  delete static_cast<Session*>(held);
  return error;
}

__attribute__((visibility("default"))) Error* TRITONBACKEND_ModelInstanceExecute(
    Instance* instance, Request** requests, const uint32_t n) {
  Model* model = nullptr;
  void* held = nullptr;
  std::vector<Response*> responses(n, nullptr);
  std::string wrong;
  try {
    check(TRITONBACKEND_ModelInstanceModel(instance, &model), "the model");
    check(TRITONBACKEND_ModelState(model, &held), "the session");
    for (uint32_t i = 0; i < n; ++i) check(TRITONBACKEND_ResponseNew(&responses[i], requests[i]), "a response");
    const uint64_t start_ns = now_ns();
    const uint64_t n_rows = run(static_cast<Session*>(held), requests, n, responses);
    const uint64_t end_ns = now_ns();
    check(TRITONBACKEND_ModelInstanceReportBatchStatistics(
              instance, n_rows, start_ns, start_ns, end_ns, end_ns), "statistics");
  } catch (const std::string& said) {
    wrong = said;
  }
  for (uint32_t i = 0; i < n; ++i) {
    Error* told = wrong.empty() ? nullptr : TRITONSERVER_ErrorNew(kInternal, wrong.c_str());
    if (responses[i] != nullptr) TRITONBACKEND_ResponseSend(responses[i], kAll, told);
    if (told != nullptr) TRITONSERVER_ErrorDelete(told);
    TRITONBACKEND_RequestRelease(requests[i], kAll);
  }
  return nullptr;
}
}
