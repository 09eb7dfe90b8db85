/* Runs compiled models between pages that cannot be touched: `guard LIST [plain]`. A line of LIST is a case: the path of a model, the bytes of its input, the number
 * of its outputs and the bytes of each. The input is in the file MODEL.in, what the outputs must be, one after the other, in MODEL.out.
 *
 * Each case runs four times: every buffer ends where the forbidden page begins, or begins where it ends; on this thread, and with units in
 * descending order as a pool may do them. Inputs cannot be written. With `plain` the memory is that of malloc and nothing is set in it, for a checker of
 * uninitialised reads, and each case runs once. Exit 1 for a difference; a touch of a forbidden page ends the process by a signal. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST = 64 };

/* The first fields of the description: runtime/src/abi.rs. */
struct info {
    uint32_t abi_version, header_bytes, tensor_bytes, inputs, outputs, features_known;
    uint64_t scratch_bytes, scratch_align;
};

struct pool {
    void *ctx;
    uint32_t threads, reserved;
    void (*parallel_for)(void *, void (*)(void *, size_t, size_t), void *, size_t);
};

typedef int run_fn(const void *const *, void *const *, void *);
typedef int run_mt_fn(const void *const *, void *const *, void *, const struct pool *);

static size_t page;
static int plain;

static void descending(void *ctx, void (*task)(void *, size_t, size_t), void *argument, size_t units)
{
    (void)ctx;
    while (units-- > 0)
        task(argument, units, units + 1);
}

struct buffer {
    unsigned char *map, *data;
    size_t bytes, mapped;
};

/* Memory that ends, or begins, at a forbidden page. */
static struct buffer buffer(size_t bytes, int at_end)
{
    struct buffer b = {0, 0, bytes, (bytes + page - 1) / page * page + 2 * page};
    if (plain) {
        b.map = b.data = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
        return b;
    }
    b.map = mmap(NULL, b.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b.map == MAP_FAILED || mprotect(b.map + page, b.mapped - 2 * page, PROT_READ | PROT_WRITE)) {
        perror("memory");
        exit(3);
    }
    memset(b.map + page, 0xa5, b.mapped - 2 * page);
    b.data = at_end ? b.map + b.mapped - page - bytes : b.map + page;
    return b;
}

/* Whether what lies around a buffer on its own pages is as it was. */
static int untouched(const struct buffer *b)
{
    if (plain)
        return 1;
    for (const unsigned char *p = b->map + page; p < b->map + b->mapped - page; p++)
        if ((p < b->data || p >= b->data + b->bytes) && *p != 0xa5)
            return 0;
    return 1;
}

static void release(struct buffer *b)
{
    if (plain)
        free(b->map);
    else
        munmap(b->map, b->mapped);
}

static void fill(const char *model, const char *ending, unsigned char *to, size_t bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s%s", model, ending);
    FILE *file = fopen(path, "rb");
    if (!file || fread(to, 1, bytes, file) != bytes) {
        fprintf(stderr, "%s has fewer than %zu bytes\n", path, bytes);
        exit(3);
    }
    fclose(file);
}

static int run_case(const char *model, size_t in_bytes, int outputs, const size_t *out_bytes)
{
    void *library = dlopen(model, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 3;
    }
    const struct info *(*describe)(void) = (const struct info *(*)(void))dlsym(library, "qcc_model_info");
    run_fn *run = (run_fn *)dlsym(library, "qcc_model_run");
    run_mt_fn *run_mt = (run_mt_fn *)dlsym(library, "qcc_model_run_mt");
    size_t scratch_bytes = describe()->scratch_bytes, all = 0;
    for (int i = 0; i < outputs; i++)
        all += out_bytes[i];
    unsigned char *wanted = malloc(all + 1);
    fill(model, ".out", wanted, all);
    for (int way = 0; way < (plain ? 1 : 4); way++) {
        struct buffer in = buffer(in_bytes, way & 1), scratch = buffer(scratch_bytes, way & 1), out[MOST];
        const void *inputs[1] = {in.data};
        void *results[MOST];
        for (int i = 0; i < outputs; i++) {
            out[i] = buffer(out_bytes[i], way & 1);
            results[i] = out[i].data;
        }
        fill(model, ".in", in.data, in_bytes);
        if (!plain)
            mprotect(in.map + page, in.mapped - 2 * page, PROT_READ);
        struct pool pool = {NULL, 3, 0, descending};
        int code = way & 2 ? run_mt(inputs, results, scratch.data, &pool) : run(inputs, results, scratch.data);
        size_t at = 0;
        int same = code == 0 && untouched(&scratch) && untouched(&in);
        for (int i = 0; i < outputs; i++) {
            same = same && memcmp(out[i].data, wanted + at, out_bytes[i]) == 0 && untouched(&out[i]);
            at += out_bytes[i];
            release(&out[i]);
        }
        release(&in);
        release(&scratch);
        if (!same) {
            fprintf(stderr, "%s, way %d: code %d, or other bytes than the interpreter's, or bytes around a buffer changed\n", model, way, code);
            return 1;
        }
    }
    free(wanted);
    dlclose(library);
    return 0;
}

int main(int count, char **arguments)
{
    if (count < 2)
        return 2;
    page = (size_t)sysconf(_SC_PAGESIZE);
    plain = count > 2 && strcmp(arguments[2], "plain") == 0;
    FILE *list = fopen(arguments[1], "r");
    char model[4000];
    size_t in_bytes, out_bytes[MOST];
    int outputs, cases = 0;
    while (list && fscanf(list, "%3999s %zu %d", model, &in_bytes, &outputs) == 3 && outputs <= MOST) {
        for (int i = 0; i < outputs; i++)
            if (fscanf(list, "%zu", &out_bytes[i]) != 1)
                return 3;
        int code = run_case(model, in_bytes, outputs, out_bytes);
        if (code)
            return code;
        cases++;
    }
    printf("%d cases\n", cases);
    return 0;
}
