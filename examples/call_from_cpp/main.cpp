// Calls a compiled model from C++ on the program's own threads:
//
//   qcc examples/models/resnet_cifar10.onnx -o example.so
//   g++ -std=c++17 -pthread -I. examples/call_from_cpp/main.cpp ./example.so -o main
//   LD_LIBRARY_PATH=. ./main
//
// A model starts no thread. It asks the host for them through `parallel_for`, which may be that of any pool: here std::thread.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "example.h"

namespace {

struct Threads {
    unsigned count;
};

// Calls task(arg, begin, end) for ranges that cover 0..n, each on a thread, and returns when all are done.
void parallel_for(void *ctx, void (*task)(void *, size_t, size_t), void *arg, size_t n)
{
    const size_t parts = std::min<size_t>(static_cast<Threads *>(ctx)->count, n);
    std::vector<std::thread> others;
    for (size_t i = 1; i < parts; i++)
        others.emplace_back(task, arg, n * i / parts, n * (i + 1) / parts);
    if (parts > 0)
        task(arg, 0, n / parts);
    for (std::thread &other : others)
        other.join();
}

}  // namespace

int main()
{
    std::vector<float> image(QCC_EXAMPLE_IN0_ELEMENTS);
    for (size_t i = 0; i < image.size(); i++)
        image[i] = static_cast<float>(i % 255) / 128 - 1;
    std::vector<float> alone(QCC_EXAMPLE_OUT0_ELEMENTS), together(QCC_EXAMPLE_OUT0_ELEMENTS);
    const size_t align = QCC_EXAMPLE_SCRATCH_ALIGN;
    const size_t bytes = (QCC_EXAMPLE_SCRATCH_BYTES + align - 1) / align * align;
    std::unique_ptr<void, decltype(&std::free)> scratch(std::aligned_alloc(align, bytes), std::free);

    const float *in[] = {image.data()};
    float *out[] = {alone.data()};
    int code = qcc_example_run_f32(in, out, scratch.get());

    Threads threads{3};
    const qcc_pool pool{&threads, threads.count, 0, parallel_for};
    out[0] = together.data();
    if (code == QCC_OK)
        code = qcc_example_run_f32_mt(in, out, scratch.get(), &pool);
    if (code != QCC_OK || alone != together) {
        std::fprintf(stderr, "the model returned %d, or threads changed its result\n", code);
        return 1;
    }
    std::printf("class %td, alone and on %u threads\n", std::max_element(alone.begin(), alone.end()) - alone.begin(), threads.count);
    return 0;
}
