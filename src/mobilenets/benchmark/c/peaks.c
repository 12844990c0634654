/* What the processor can do, for `mobilenets bench`:  ./peaks THREADS
 *
 * Prints three numbers, of all threads together: multiply-adds of floats, in 10^9 a second; and bytes read
 * from a cache close to the core and from memory, in 10^9 a second. Each is the best of some tries. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
#define VECTOR 16
#elif defined(__AVX__)
#define VECTOR 8
#else
#define VECTOR 4
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
#define SUMS 24         /* of 32 registers: enough to hide the latency of every multiply-add */
#else
#define SUMS 12         /* of 16 */
#endif
#define UNROLL _Pragma("GCC unroll 24")
#define MAX_THREADS 64
#define TRIES 12
#define FMA_TURNS 200000
#define NEAR_FLOATS (64 * 1024)             /* 256 KiB */
#define NEAR_TURNS 100
#define FAR_FLOATS (32 * 1024 * 1024)       /* 128 MiB */

typedef float vec __attribute__((vector_size(4 * VECTOR)));

static int threads;
static pthread_barrier_t together;
static float *maps[MAX_THREADS];
static volatile float kept[MAX_THREADS];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float total(const vec *sums) {
    float result = 0;
    for (int i = 0; i < SUMS; i++)
        for (int j = 0; j < VECTOR; j++)
            result += sums[i][j];
    return result;
}

static float multiply_add(const float *from) {
    vec sums[SUMS], factor = {0}, addend = {0};
    factor += from[0] * 1e-3f + 0.5f;
    addend += from[1] + 0.25f;
    for (int i = 0; i < SUMS; i++)
        sums[i] = addend * (float)i;
    for (int turn = 0; turn < FMA_TURNS; turn++) {
        UNROLL for (int i = 0; i < SUMS; i++)
            sums[i] = sums[i] * factor + addend;
    }
    return total(sums);
}

static float read_all(const float *from, long floats, int turns) {
    vec sums[SUMS] = {{0}};
    for (int turn = 0; turn < turns; turn++) {
        for (long at = 0; at + SUMS * VECTOR <= floats; at += SUMS * VECTOR) {
            UNROLL for (int i = 0; i < SUMS; i++)
                sums[i] += *(const vec *)(from + at + i * VECTOR);
        }
        __asm__ volatile("" ::: "memory");
    }
    return total(sums);
}

static float do_work(int which, const float *from) {
    switch (which) {
    case 0: return multiply_add(from);
    case 1: return read_all(from, NEAR_FLOATS, NEAR_TURNS);
    default: return read_all(from, FAR_FLOATS / threads, 1);
    }
}

static void *work(void *number) {
    const int me = (int)(size_t)number;
    const double amounts[] = {
        (double)threads * FMA_TURNS * SUMS * VECTOR,
        4.0 * threads * NEAR_FLOATS * NEAR_TURNS,
        4.0 * FAR_FLOATS,
    };
    for (int which = 0; which < 3; which++) {
        double best = 1e9;
        for (int i = 0; i < TRIES; i++) {
            pthread_barrier_wait(&together);
            const double start = now();
            kept[me] = do_work(which, maps[me]);
            pthread_barrier_wait(&together);
            const double took = now() - start;
            best = took < best ? took : best;
        }
        if (me == 0)
            printf("%.3f\n", 1e-9 * amounts[which] / best);
    }
    return NULL;
}

int main(int count, char **words) {
    pthread_t others[MAX_THREADS];
    threads = count == 2 ? atoi(words[1]) : 0;
    if (threads < 1 || threads > MAX_THREADS)
        return 2;
    const long floats = FAR_FLOATS / threads > NEAR_FLOATS ? FAR_FLOATS / threads : NEAR_FLOATS;
    if (pthread_barrier_init(&together, NULL, (unsigned)threads))
        return 3;
    for (int i = 0; i < threads; i++) {
        void *memory;
        if (posix_memalign(&memory, 64, sizeof(float) * (size_t)floats))
            return 3;
        maps[i] = memory;
        for (long j = 0; j < floats; j++)
            maps[i][j] = 0.5f;
    }
    for (int i = 1; i < threads; i++)
        if (pthread_create(&others[i], NULL, work, (void *)(size_t)i))
            return 3;
    work((void *)0);
    for (int i = 1; i < threads; i++)
        pthread_join(others[i], NULL);
    return 0;
}
