/* Calls a compiled model from C:
 *
 *   qcc examples/models/resnet_cifar10.onnx -o example.so
 *   gcc -I. examples/call_from_c/main.c ./example.so -o main
 *   LD_LIBRARY_PATH=. ./main
 *
 * or, with the model in the program itself:
 *
 *   qcc examples/models/resnet_cifar10.onnx -o example.o
 *   gcc -I. examples/call_from_c/main.c example.o -o main
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "example.h"

int main(void)
{
    const qcc_model_info *info = qcc_example_info();
    const qcc_tensor_info *input = qcc_tensor(info, 0), *output = qcc_tensor(info, info->n_inputs);
    static uint8_t image[QCC_EXAMPLE_IN0_BYTES], logits[QCC_EXAMPLE_OUT0_BYTES];
    /* Integers in, integers out: the zero point stands for the real number 0. */
    memset(image, input->zero_point, sizeof image);
    const void *in[] = {image};
    void *out[] = {logits};
    void *scratch = aligned_alloc(info->scratch_align, (info->scratch_bytes + info->scratch_align - 1) / info->scratch_align * info->scratch_align);
    int code = scratch ? qcc_example_run(in, out, scratch) : QCC_ERR_NULL;
    free(scratch);
    if (code != QCC_OK) {
        fprintf(stderr, "the model returned %d\n", code);
        return 1;
    }
    size_t best = 0;
    for (size_t i = 1; i < sizeof logits; i++)
        if (logits[i] > logits[best])
            best = i;
    printf("class %zu, logit %f\n", best, output->scale * (logits[best] - output->zero_point));
    return 0;
}
