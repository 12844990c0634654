/* Vectors of VECTOR floats: 16 (AVX-512), 8 (AVX), 4 (SSE, NEON, WASM) or 1, and what the kernels do with
 * them. The compiler's vector extensions give + - * and broadcasting; the rest is here. */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>

#define INLINE static inline __attribute__((always_inline, unused))
#define PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define UNROLL PRAGMA(clang loop unroll(full))
#define UNROLL_BY(n) PRAGMA(clang loop unroll_count(n))
#else
#define UNROLL PRAGMA(GCC unroll 64)
#define UNROLL_BY(n) PRAGMA(GCC unroll n)
#endif

#ifndef VECTOR
#if defined(__AVX512F__)
#define VECTOR 16
#elif defined(__AVX__)
#define VECTOR 8
#elif defined(__SSE2__) || defined(__ARM_NEON) || defined(__wasm_simd128__)
#define VECTOR 4
#else
#define VECTOR 1
#endif
#endif

/* What suits this kind of vector: 32 registers of 16 or of 4 floats, 16 of 8 or of 4, or no vectors. */
#if VECTOR == 16
#define PICK(avx512, avx, neon, sse, scalar) avx512
#elif VECTOR == 8
#define PICK(avx512, avx, neon, sse, scalar) avx
#elif VECTOR == 4 && defined(__aarch64__)
#define PICK(avx512, avx, neon, sse, scalar) neon
#elif VECTOR == 4
#define PICK(avx512, avx, neon, sse, scalar) sse
#else
#define PICK(avx512, avx, neon, sse, scalar) scalar
#endif

#if VECTOR > 1
typedef float vec __attribute__((vector_size(4 * VECTOR)));
typedef int32_t ints __attribute__((vector_size(4 * VECTOR)));
typedef uint32_t words __attribute__((vector_size(4 * VECTOR)));
typedef float unaligned __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));
typedef int32_t unaligned_ints __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));
typedef float halved __attribute__((vector_size(4 * VECTOR), aligned(2), may_alias));
typedef int32_t halved_ints __attribute__((vector_size(4 * VECTOR), aligned(2), may_alias));
typedef uint8_t bytes __attribute__((vector_size(VECTOR), aligned(1), may_alias));
#else
typedef float vec, unaligned;
typedef float halved __attribute__((aligned(2), may_alias));
typedef int32_t ints;
typedef int32_t halved_ints __attribute__((aligned(2), may_alias));
typedef uint32_t words;
#endif

INLINE vec load(const float *from) { return *(const unaligned *)from; }
INLINE void store(float *to, vec value) { *(unaligned *)to = value; }
INLINE vec all(float value) { return value - (vec){0}; }

/* Numbers of 16 bits, two in a word: the upper halves of floats, or of whole numbers. The word is read as the second one,
 * and from two bytes before it as the first one; what each has for a lower half was thought of when it was rounded. */
INLINE vec load_upper(const char *from) { return *(const halved *)(from - 2); }
INLINE ints load_upper_ints(const char *from) { return *(const halved_ints *)(from - 2); }

/* `value` in a register, where the compiler would rather load it once more for every use. */
INLINE vec hold(vec value) {
#if VECTOR == 16
    __asm__("" : "+v"(value));
#endif
    return value;
}

/* One instruction each; a comparison and a choice of bits where the compiler has no name for it. */
#if VECTOR == 16
#include <immintrin.h>
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
#elif VECTOR == 8
#include <immintrin.h>
INLINE vec larger(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#elif VECTOR == 4 && defined(__SSE2__)
#include <immintrin.h>
INLINE vec larger(vec a, vec b) { return (vec)_mm_max_ps((__m128)a, (__m128)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm_min_ps((__m128)a, (__m128)b); }
#elif VECTOR == 4 && defined(__ARM_NEON)
#include <arm_neon.h>
INLINE vec larger(vec a, vec b) { return (vec)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
INLINE vec smaller(vec a, vec b) { return (vec)vminq_f32((float32x4_t)a, (float32x4_t)b); }
#elif VECTOR == 4 && defined(__wasm_simd128__)
#include <wasm_simd128.h>
INLINE vec larger(vec a, vec b) { return (vec)wasm_f32x4_pmax((v128_t)a, (v128_t)b); }
INLINE vec smaller(vec a, vec b) { return (vec)wasm_f32x4_pmin((v128_t)a, (v128_t)b); }
#elif VECTOR > 1
INLINE vec larger(vec a, vec b) {
    ints first = a > b;
    return (vec)((first & (ints)a) | (~first & (ints)b));
}
INLINE vec smaller(vec a, vec b) { return -larger(-a, -b); }
#else
INLINE vec larger(vec a, vec b) { return a > b ? a : b; }
INLINE vec smaller(vec a, vec b) { return a < b ? a : b; }
#endif

#if VECTOR > 1
INLINE vec power_of_two(vec whole) { return (vec)((__builtin_convertvector(whole, ints) + 127) << 23); }
INLINE vec sign_of(vec x) { return (vec)((ints)x & INT32_MIN); }
INLINE vec with_sign(vec magnitude, vec sign) { return (vec)((ints)magnitude | (ints)sign); }
#else
INLINE vec power_of_two(vec whole) { return (union { int32_t bits; float value; }){((int32_t)whole + 127) << 23}.value; }
INLINE vec sign_of(vec x) { return __builtin_copysignf(0.0f, x); }
INLINE vec with_sign(vec magnitude, vec sign) { return __builtin_copysignf(magnitude, sign); }
#endif

/* Bytes as floats; gcc makes single values of a conversion that it has no name for. */
#if VECTOR == 16
INLINE vec load_bytes(const uint8_t *from) {
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from)));
}
#elif VECTOR == 8 && defined(__AVX2__)
INLINE vec load_bytes(const uint8_t *from) {
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}
#elif VECTOR > 1
INLINE vec load_bytes(const uint8_t *from) {
    return __builtin_convertvector(__builtin_convertvector(*(const bytes *)from, ints), vec);
}
#else
INLINE vec load_bytes(const uint8_t *from) { return (float)*from; }
#endif

/* Whole numbers as floats. */
#if VECTOR > 1
INLINE ints load_ints(const int32_t *from) { return *(const unaligned_ints *)from; }
INLINE vec from_ints(ints whole) { return __builtin_convertvector(whole, vec); }
#else
INLINE ints load_ints(const int32_t *from) { return *from; }
INLINE vec from_ints(ints whole) { return (float)whole; }
#endif

/* What vector v of a block of pairs is multiplied with: two values side by side, again and again. And the sums of
 * pairs of lanes, as the first half of a block. */
#if VECTOR > 1
typedef int64_t both_floats __attribute__((aligned(4), may_alias));
typedef int64_t twos __attribute__((vector_size(4 * VECTOR)));
INLINE vec load_two(const float *from, int v) { return (void)v, (vec)(*(const both_floats *)from - (twos){0}); }
#ifdef __clang__
#define SHUFFLE(a, b, ...) (vec) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ints){__VA_ARGS__})
#endif
#endif
#if VECTOR == 16
INLINE void add_pairs(const vec *lanes, vec *to) {
    to[0] = SHUFFLE(lanes[0], all(0), 0, 2, 4, 6, 8, 10, 12, 14, 16, 16, 16, 16, 16, 16, 16, 16)
            + SHUFFLE(lanes[0], all(0), 1, 3, 5, 7, 9, 11, 13, 15, 16, 16, 16, 16, 16, 16, 16, 16);
}
#elif VECTOR == 8
INLINE void add_pairs(const vec *lanes, vec *to) {
    to[0] = SHUFFLE(lanes[0], lanes[1], 0, 2, 4, 6, 8, 10, 12, 14)
            + SHUFFLE(lanes[0], lanes[1], 1, 3, 5, 7, 9, 11, 13, 15);
}
#elif VECTOR == 4
INLINE void add_pairs(const vec *lanes, vec *to) {
    UNROLL for (int i = 0; i < 2; i++)
        to[i] = SHUFFLE(lanes[2 * i], lanes[2 * i + 1], 0, 2, 4, 6) + SHUFFLE(lanes[2 * i], lanes[2 * i + 1], 1, 3, 5, 7);
}
#else
INLINE vec load_two(const float *from, int v) { return from[v % 2]; }
INLINE void add_pairs(const vec *lanes, vec *to) {
    UNROLL for (int i = 0; i < 8; i++) to[i] = lanes[2 * i] + lanes[2 * i + 1];
}
#endif

/* eˣ for x ≤ 0, within 2 units in the last place: 2ⁿ · eʳ, |r| ≤ ln 2 / 2 (the constants of Cephes' expf). */
INLINE vec exponential(vec x) {
    x = larger(x, all(-87.0f));
    const vec round = all(12582912.0f); /* 1.5 · 2²³: adding and subtracting it rounds to a whole number */
    vec n = (x * 1.44269504f + round) - round;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.0f) * power_of_two(n);
}

/* erf(x) within 2e-7: Abramowitz and Stegun, formula 7.1.26. */
INLINE vec error_function(vec x) {
    vec sign = sign_of(x), size = larger(x, -x);
    vec t = 1.0f / (1.0f + 0.3275911f * size);
    vec p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    return with_sign(1.0f - p * exponential(-size * size), sign);
}

/* x between -3 and 3. */
INLINE vec within_three(vec x) {
#if VECTOR == 16 && defined(__AVX512DQ__)
    return (vec)_mm512_range_ps((__m512)x, (__m512)all(3), 2);  /* the smaller absolute value, with the sign of x */
#else
    return smaller(larger(x, all(-3)), all(3));
#endif
}

typedef enum { NONE, RELU, RELU6, HARD_SWISH, HARD_SIGMOID, GELU } Activation;

INLINE vec activate(Activation kind, vec x) {
    switch (kind) {
    case RELU: return larger(x, all(0));
    case RELU6: return smaller(larger(x, all(0)), all(6));
    case HARD_SIGMOID: return within_three(x) * (1.0f / 6) + 0.5f;
    case HARD_SWISH: return x * (within_three(x) * (1.0f / 6) + 0.5f);
    case GELU: return 0.5f * x * (1.0f + error_function(x * 0.70710678f));
    case NONE: break;
    }
    return x;
}

/* The same. Floats and whole numbers of the same bits agree on what lies below 0, and for a ReLU the comparison of whole numbers
 * takes one cycle where that of floats takes four. But only one of two ports does it: convolutions whose tiles have one vector,
 * a load for every product, are slower with it (LOG.md). */
INLINE vec activate_by_bits(Activation kind, vec x) {
#if VECTOR == 16
    if (kind == RELU)
        return (vec)_mm512_max_epi32((__m512i)x, _mm512_setzero_si512());
#endif
    return activate(kind, x);
}
#endif
