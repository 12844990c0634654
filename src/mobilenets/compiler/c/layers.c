/* The model's interface with one more function, which times every step. Only `mobilenets bench --layers`
 * compiles this, in the place of model.c; libraries that are used have no clock in them. */
#include "model.c"

#include <time.h>

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* As model_run, on one thread; nanoseconds[i] is what step i took. Returns the number of steps. */
MODEL_API int layers_run(void *memory, const uint8_t *pixels, int64_t *nanoseconds);

int layers_run(void *memory, const uint8_t *pixels, int64_t *nanoseconds) {
    Model *model = model_in(memory);
    model->run.pixels = pixels;
    int64_t start = now();
    for (int i = 0; i < model->network.count; i++) {
        model->network.steps[i].run(&model->run, 0, 1);
        const int64_t end = now();
        nanoseconds[i] = end - start;
        start = end;
    }
    return model->network.count;
}
