/* Calls a compiled model where there is no C library: nothing but this file and the model is in the program.
 *
 *   qcc examples/models/resnet_cifar10.onnx -o example.o
 *   gcc -O1 -ffreestanding -nostdlib -static -fno-stack-protector -I. examples/call_from_c/freestanding.c example.o -o main && ./main
 *
 * The exit code is the class. On a microcontroller `start` is what the reset handler calls, and `leave` does not return.
 */
#include "example.h"

static uint8_t image[QCC_EXAMPLE_IN0_BYTES], logits[QCC_EXAMPLE_OUT0_BYTES];
static _Alignas(QCC_EXAMPLE_SCRATCH_ALIGN) uint8_t scratch[QCC_EXAMPLE_SCRATCH_BYTES];

/* The only word to the system: Linux's `exit`. */
static _Noreturn void leave(long code)
{
#if defined(__x86_64__)
    __asm__ volatile("syscall" : : "a"(60L), "D"(code) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long number __asm__("x8") = 93, first __asm__("x0") = code;
    __asm__ volatile("svc 0" : : "r"(number), "r"(first) : "memory");
#else
#error "say here how a program ends"
#endif
    for (;;) {
    }
}

_Noreturn void start(void)
{
    const qcc_model_info *info = qcc_example_info();
    const qcc_tensor_info *input = qcc_tensor(info, 0);
    const void *in[] = {image};
    void *out[] = {logits};
    for (size_t i = 0; i < sizeof image; i++)
        image[i] = (uint8_t)(input->zero_point + (int)(i % 7));
    if (qcc_example_run(in, out, scratch) != QCC_OK)
        leave(100);
    size_t best = 0;
    for (size_t i = 1; i < sizeof logits; i++)
        if (logits[i] > logits[best])
            best = i;
    leave((long)best);
}

#if defined(__x86_64__)
/* The stack is aligned at entry, and a function expects it as after a call. */
__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  call start\n");
#else
__asm__(".globl _start\n_start:\n  b start\n");
#endif
