/* The model's interface (model.h): the caller's memory, the threads in it, and the path for this processor. */
#include "model.h"

#include "paths.h"

#ifndef MODEL_SINGLE_THREADED
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#if defined(__linux__)
#include <sys/mman.h>
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#endif
#endif

#define OPENED 0x6d6f6269u
#define SPINS 2000          /* about 20 µs before a waiting thread lets others run */

extern const float model_weights[], model_weights_end[];

typedef struct Model {
    uint32_t opened;
    int threads;
    Network network;
    Run run;
#ifndef MODEL_SINGLE_THREADED
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    atomic_int turn;        /* counts runs; negative: stop */
    _Atomic uint64_t taken; /* the step, and below it a bit for every share of it that a thread has taken */
    _Alignas(64) atomic_int done;   /* shares of the step */
    int started;
    pthread_t workers[MODEL_MAX_THREADS];
    atomic_int next_thread;
#endif
} Model;

_Static_assert(sizeof(Model) + 128 <= MODEL_BYTES(0) - MODEL_ARENA_BYTES, "MODEL_BYTES is too small");

static Model *model_in(void *memory) { return (Model *)(((uintptr_t)memory + 63) & ~(uintptr_t)63); }
static float *arena_in(Model *model) { return (float *)(((uintptr_t)(model + 1) + 63) & ~(uintptr_t)63); }

/* The pages of the weights at once, which the first run would fault in one after the other. A kernel that cannot do so
 * (before 5.14) says no, and nothing is lost. */
static void map_weights(void) {
#if defined(__linux__) && !defined(MODEL_SINGLE_THREADED)
    const uintptr_t page = 65536, end = (uintptr_t)model_weights_end;     /* no system has larger ones */
    const uintptr_t first = ((uintptr_t)model_weights + page - 1) / page * page;
    if (first < end)
        (void)madvise((void *)first, end - first, MADV_POPULATE_READ);
#endif
}

#ifdef MODEL_SINGLE_THREADED
static int start(Model *model) { return model->threads == 1 ? MODEL_OK : MODEL_NO_THREADS; }
static void stop(Model *model) { (void)model; }
static void run_all(Model *model) {
    for (int i = 0; i < model->network.count; i++) model->network.steps[i].run(&model->run, 0, 1);
}
#else
static void wait_a_moment(int *spins) {
    if (++*spins > SPINS)
        sched_yield();
#if defined(__x86_64__)
    else
        __builtin_ia32_pause();
#endif
}

/* A step begins when all shares of the one before are done, whoever did them: a thread that the system has not yet
 * started, or has stopped, holds up nobody. Its own share is the best one for a thread, as that share's neighbours are
 * in its processor's cache. */
static void run_steps(Model *model, int thread) {
    int spins = 0;
    for (;;) {
        uint64_t taken = atomic_load_explicit(&model->taken, memory_order_acquire);
        const int step = (int)(taken >> 32);
        const uint64_t left = ~taken & ((UINT64_C(1) << model->threads) - 1);
        if (step >= model->network.count)
            return;
        if (left == 0) {
            wait_a_moment(&spins);
            continue;
        }
        const int share = left >> thread & 1 ? thread : __builtin_ctzll(left);
        if (!atomic_compare_exchange_strong_explicit(&model->taken, &taken, taken | UINT64_C(1) << share,
                                                     memory_order_acq_rel, memory_order_relaxed))
            continue;
        Run run = model->run;
        run.rings += (size_t)thread * (MODEL_RING_BYTES / sizeof(float));
        model->network.steps[step].run(&run, share, model->threads);
        if (atomic_fetch_add_explicit(&model->done, 1, memory_order_acq_rel) + 1 == model->threads) {
            atomic_store_explicit(&model->done, 0, memory_order_relaxed);
            atomic_store_explicit(&model->taken, (uint64_t)(step + 1) << 32, memory_order_release);
        }
        spins = 0;
    }
}

static void *work(void *memory) {
    Model *model = memory;
    const int thread = atomic_fetch_add(&model->next_thread, 1);
    for (int seen = 0;;) {
        int spins = 0;
        while (atomic_load_explicit(&model->turn, memory_order_acquire) == seen && spins < SPINS)
            wait_a_moment(&spins);
        pthread_mutex_lock(&model->mutex);
        while (atomic_load(&model->turn) == seen)
            pthread_cond_wait(&model->changed, &model->mutex);
        pthread_mutex_unlock(&model->mutex);
        seen = atomic_load(&model->turn);
        if (seen < 0)
            return NULL;
        run_steps(model, thread);
    }
}

static void announce(Model *model, int turn) {
    pthread_mutex_lock(&model->mutex);
    atomic_store_explicit(&model->turn, turn, memory_order_release);
    pthread_cond_broadcast(&model->changed);
    pthread_mutex_unlock(&model->mutex);
}

static void stop(Model *model) {
    if (model->threads == 1)
        return;
    announce(model, -1);
    for (int i = 0; i < model->started; i++)
        pthread_join(model->workers[i], NULL);
    pthread_cond_destroy(&model->changed);
    pthread_mutex_destroy(&model->mutex);
}

static int start(Model *model) {
    if (model->threads == 1)
        return MODEL_OK;
    if (pthread_mutex_init(&model->mutex, NULL))
        return MODEL_NO_THREADS;
    if (pthread_cond_init(&model->changed, NULL)) {
        pthread_mutex_destroy(&model->mutex);
        return MODEL_NO_THREADS;
    }
    atomic_init(&model->next_thread, 1);
    for (; model->started < model->threads - 1; model->started++) {
        if (pthread_create(&model->workers[model->started], NULL, work, model)) {
            stop(model);
            return MODEL_NO_THREADS;
        }
    }
    return MODEL_OK;
}

static void run_all(Model *model) {
    atomic_store_explicit(&model->taken, 0, memory_order_release);
    if (model->threads > 1) {
        const int turn = atomic_load_explicit(&model->turn, memory_order_relaxed);
        announce(model, turn == INT32_MAX ? 1 : turn + 1);
    }
    run_steps(model, 0);
}
#endif

/* The best path that this processor can run. */
static const Network *best_path(const char **name) {
#define TRY(path, condition)          \
    if (condition) {                  \
        *name = #path;                \
        return &network_##path;       \
    }
    MODEL_PATHS(TRY)
#undef TRY
    *name = "";
    return NULL;
}

const char *model_path(void) {
    const char *name;
    best_path(&name);
    return name;
}

int model_open(void *memory, size_t bytes, int threads) {
    const char *name;
    const Network *network = best_path(&name);
    Model *model = model_in(memory);
    if (threads < 1 || threads > MODEL_MAX_THREADS)
        return MODEL_WRONG_THREADS;
    if (bytes < MODEL_BYTES(threads))
        return MODEL_TOO_SMALL;
    __builtin_memset(model, 0, sizeof *model);
    if (network == NULL)
        return MODEL_WRONG_CPU;
    model->threads = threads;
    model->network = *network;
    model->run.weights = model_weights;
    model->run.arena = arena_in(model);
    model->run.rings = model->run.arena + MODEL_ARENA_BYTES / sizeof(float);
    map_weights();
    const int code = start(model);
    if (code == MODEL_OK)
        model->opened = OPENED;
    return code;
}

int model_run(void *memory, const uint8_t *pixels, float *logits) {
    Model *model = model_in(memory);
    if (model->opened != OPENED)
        return MODEL_NOT_OPEN;
    model->run.pixels = pixels;
    run_all(model);
    __builtin_memcpy(logits, model->run.arena + model->network.logits, MODEL_CLASSES * sizeof *logits);
    return MODEL_OK;
}

void model_close(void *memory) {
    Model *model = model_in(memory);
    if (model->opened == OPENED)
        stop(model);
    model->opened = 0;
}

size_t model_bytes(int threads) { return MODEL_BYTES(threads); }
const int model_side = MODEL_SIDE, model_channels = MODEL_CHANNELS, model_classes = MODEL_CLASSES;

const char *model_error(int code) {
    switch (code) {
    case MODEL_OK: return "done";
    case MODEL_TOO_SMALL: return "the memory is smaller than MODEL_BYTES(threads)";
    case MODEL_WRONG_CPU: return "this library was compiled for instructions that this processor does not have";
    case MODEL_WRONG_THREADS: return "the number of threads must lie between 1 and MODEL_MAX_THREADS";
    case MODEL_NO_THREADS: return "no more threads could be started, or this library has none";
    case MODEL_NOT_OPEN: return "model_open did not succeed on this memory";
    default: return "an unknown code";
    }
}
