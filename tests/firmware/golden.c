/* Print the bits of the logits of PICTURES pictures, which lie side by side in pixels.bin. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

#ifndef THREADS
#define THREADS 1
#endif

__asm__(".section .rodata\n.globl pixels\npixels:\n.incbin \"pixels.bin\"\n.text\n");
extern const uint8_t pixels[];

static _Alignas(64) unsigned char memory[MODEL_BYTES(THREADS)];
static float logits[MODEL_CLASSES];

int main(void) {
    const int code = model_open(memory, sizeof memory, THREADS);
    printf("%s\n", code == MODEL_OK ? model_path() : model_error(code));
    for (int i = 0; i < PICTURES && code == MODEL_OK; i++) {
        model_run(memory, pixels + i * MODEL_PIXELS, logits);
        for (int j = 0; j < MODEL_CLASSES; j++) {
            uint32_t bits;
            memcpy(&bits, &logits[j], sizeof bits);
            printf("%08lx\n", (unsigned long)bits);
        }
    }
    model_close(memory);
    return code;
}
