/* The kernels of a MobileNet in bf16, the upper half of an fp32 number: maps and the weights of convolutions are
 * bf16, sums are fp32. For x86-64 with AVX512-BF16, whose vectors multiply pairs of values; where the processor has
 * AMX, tiles of 16 pixels × 32 channels are multiplied by the matrix unit. maps.h says how a map lies in memory.
 *
 * The weights of a convolution lie [panel of 32 outputs][ky][kx][block of 32 inputs][half of the panel], and there
 * as 16 pairs of inputs × 16 outputs × 2: a vector of the dot product, and a row of AMX's second operand.
 */
#ifndef KERNELS_BF16_H
#define KERNELS_BF16_H

#define BLOCK 32       /* channels of a block */
#include "maps.h"

#if VECTOR != 16 || !defined(__AVX512BF16__)
#error "bf16 wants AVX512-BF16"
#endif
/* What suits this kind of processor. */
#undef PICK
#if defined(__AMX_BF16__) || defined(__AMXBF16__)   /* the second is what older clangs say */
#define MATRIX
#define PICK(dot, amx) amx
#else
#define PICK(dot, amx) dot
#endif

typedef uint16_t bf16;
typedef uint32_t unaligned_words __attribute__((vector_size(64), aligned(2), may_alias));
typedef int both_values __attribute__((aligned(2), may_alias));
#define HALF (BLOCK * VECTOR)   /* weights of 32 inputs and 16 outputs */

/* The 32 values of a block as its first and second half. */
INLINE vec load_half(const bf16 *from) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}
INLINE void store_halves(bf16 *to, vec first, vec second) {
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}

/* The 32 values of a block as those at even and at odd places, which costs less to read. */
typedef struct {
    vec even, odd;
} Pairs;
INLINE Pairs load_pairs(const bf16 *from) {
    const words both = *(const unaligned_words *)from;
    return (Pairs){(vec)(both << 16), (vec)(both & 0xffff0000u)};
}
INLINE void store_pairs(bf16 *to, Pairs pairs) {
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)pairs.odd, (__m512)pairs.even);
    const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(turns, halves));
}

/* What becomes of the sums of 32 channels of a pixel; logits stay fp32. */
INLINE void finish(Convolution s, vec first, vec second, void *out, size_t at, const bf16 *add) {
    first = activate(s.activation, first), second = activate(s.activation, second);
    if (s.logits) {
        store((float *)out + at, first);
        store((float *)out + at + VECTOR, second);
    } else {
        if (add)
            first += load_half(add + at), second += load_half(add + at + VECTOR);
        store_halves((bf16 *)out + at, first, second);
    }
}

/* Some rows of a convolution over a picture, whose values are floats without gaps, in fp32. */
INLINE void convolve_picture(Convolution s, const float *in, const float *weights, const float *bias, bf16 *out,
                             Range rows) {
    const int run = s.kernel * s.in.channels;
    for (int y = rows.first; y < rows.last; y++) {
        const Range filter = inside(s.kernel, s.stride, s.before, s.in.rows, y);
        clear_borders(s.out, out + at_row(s.out, y), sizeof *out, (Range){0, blocks(s.out)});
        for (int b = 0; b < blocks(s.out); b++) {
            for (int x = 0; x < s.out.columns; x += s.pixels) {
                const int left = smaller_of(x, s.out.columns - s.pixels);
                vec sums[MAX_SUMS];
                UNROLL for (int i = 0; i < 2 * s.pixels; i++) sums[i] = load(bias + b * BLOCK + i % 2 * VECTOR);
                for (int ky = filter.first; ky < filter.last; ky++) {
                    const float *values = in + at_row(s.in, y * s.stride - s.before + ky)
                                          + (s.in.left - s.before + left * s.stride) * s.in.channels;
                    const float *w = weights + (b * s.kernel + ky) * run * BLOCK;
                    for (int k = 0; k < run; k++, w += BLOCK) {
                        const vec first = load(w), second = load(w + VECTOR);
                        UNROLL for (int p = 0; p < s.pixels; p++) {
                            sums[2 * p] += values[p * s.stride * s.in.channels + k] * first;
                            sums[2 * p + 1] += values[p * s.stride * s.in.channels + k] * second;
                        }
                    }
                }
                const size_t at = at_row(s.out, y) + b * plane(s.out) + (s.out.left + left) * BLOCK;
                UNROLL for (int p = 0; p < s.pixels; p++)
                    finish(s, sums[2 * p], sums[2 * p + 1], out, at + p * BLOCK, NULL);
            }
        }
    }
}

/* Some neighbouring pixels of a row: where the filter's rows begin in the map, and where the sums go. */
typedef struct {
    const bf16 *lines[MAX_KERNEL];
    Range filter;
    size_t at;
} Spot;

INLINE Spot spot(Convolution s, const bf16 *in, int y, int x) {
    Spot found = {.filter = inside(s.kernel, s.stride, s.before, s.in.rows, y),
                  .at = at_row(s.out, y) + (s.out.left + x) * BLOCK};
    for (int ky = found.filter.first; ky < found.filter.last; ky++)
        found.lines[ky] = in + at_row(s.in, y * s.stride - s.before + ky)
                          + (s.in.left - s.before + x * s.stride) * BLOCK;
    return found;
}

#ifdef MATRIX
#define TILES 2

/* The matrix unit's registers: 0 to 3 hold sums, 4 and 5 pixels, 6 and 7 weights. */
INLINE void begin(Convolution s) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = 64;
        shape.rows[i] = i < 6 ? s.pixels : 16;
    }
    /* gcc takes the tiles' instructions for such as read little or no memory: what was written is written. */
    __asm__ volatile("" : : "r"(&shape) : "memory");
    _tile_loadconfig(&shape);
}

INLINE void end(void) { _tile_release(); }

/* One tile or two with the weights of one panel. */
INLINE void convolve_tiles(Convolution s, int two, const Spot *spots, const bf16 *weights, const float *bias, void *out,
                           const bf16 *add, Ahead ahead) {
    const int inputs = blocks(s.in) / s.groups, step = s.stride * BLOCK * (int)sizeof(bf16);
    float sums[4][BLOCK / 2 * VECTOR] __attribute__((aligned(64)));
    if (bias) {     /* the same for every pixel */
        _tile_loadd(0, bias, 0);
        _tile_loadd(1, bias + VECTOR, 0);
        if (two) {
            _tile_loadd(2, bias, 0);
            _tile_loadd(3, bias + VECTOR, 0);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int ky = spots[0].filter.first; ky < spots[0].filter.last; ky++) {
        const bf16 *w = weights + (size_t)ky * s.kernel * inputs * 2 * HALF;
        for (int kx = 0; kx < s.kernel; kx++) {
            for (int c = 0; c < inputs; c++, w += 2 * HALF) {
                const int at = kx * BLOCK + c * plane(s.in);
                _tile_loadd(6, w, 64);
                _tile_loadd(4, spots[0].lines[ky] + at, step);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, w + HALF, 64);
                _tile_dpbf16ps(1, 4, 7);
                if (two) {
                    _tile_loadd(5, spots[1].lines[ky] + at, step);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
                fetch(&ahead);
            }
        }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    if (two) {
        _tile_stored(2, sums[2], 64);
        _tile_stored(3, sums[3], 64);
    }
    for (int i = 0; i <= two; i++)
        UNROLL_BY(4) for (int p = 0; p < s.pixels; p++)
            finish(s, load(sums[2 * i] + p * VECTOR), load(sums[2 * i + 1] + p * VECTOR), out,
                   spots[i].at + p * BLOCK, add);
}
#else
#define TILES 1

INLINE void begin(Convolution s) { (void)s; }
INLINE void end(void) {}

/* 32 inputs of the tile's pixels times the weights of 32 outputs, added. */
INLINE void add_products(Convolution s, const bf16 *x, const bf16 *weights, vec *sums) {
    for (int k = 0; k < BLOCK; k += 2) {
        UNROLL for (int p = 0; p < s.pixels; p++) {
            const __m512bh pair = (__m512bh)_mm512_set1_epi32(*(const both_values *)(x + p * s.stride * BLOCK + k));
            UNROLL for (int half = 0; half < 2; half++)
                sums[2 * p + half] = (vec)_mm512_dpbf16_ps(
                    (__m512)sums[2 * p + half], pair,
                    (__m512bh)_mm512_loadu_si512(weights + half * HALF + k * VECTOR));
        }
    }
}

/* One tile with the weights of one panel. */
INLINE void convolve_tiles(Convolution s, int two, const Spot *spots, const bf16 *weights, const float *bias, void *out,
                           const bf16 *add, Ahead ahead) {
    const int inputs = blocks(s.in) / s.groups;
    vec sums[MAX_SUMS];
    (void)two;
    UNROLL for (int i = 0; i < 2 * s.pixels; i++) sums[i] = bias ? load(bias + i % 2 * VECTOR) : all(0);
    for (int ky = spots->filter.first; ky < spots->filter.last; ky++) {
        const bf16 *w = weights + (size_t)ky * s.kernel * inputs * 2 * HALF;
        for (int kx = 0; kx < s.kernel; kx++) {
            for (int c = 0; c < inputs; c++, w += 2 * HALF) {
                fetch(&ahead);
                add_products(s, spots->lines[ky] + kx * BLOCK + c * plane(s.in), w, sums);
            }
        }
    }
    UNROLL for (int p = 0; p < s.pixels; p++)
        finish(s, sums[2 * p], sums[2 * p + 1], out, spots->at + p * BLOCK, add);
}
#endif

/* Some rows, one panel; the rows of a filter that lie inside the map must be the same for tiles in one go. */
INLINE void convolve_panel(Convolution s, const bf16 *in, const bf16 *weights, const float *bias, void *out,
                           const bf16 *add, Range rows, Later *later, int fetched) {
    const int wide = (s.out.columns + s.pixels - 1) / s.pixels, inputs = blocks(s.in) / s.groups;
    const int tall = s.kernel == 1 ? rows.last - rows.first : 1;
    for (int y = rows.first; y < rows.last; y += tall) {
        for (int t = 0; t < tall * wide; t += TILES) {
            Spot spots[TILES];
            const int now = smaller_of(TILES, tall * wide - t);
            for (int i = 0; i < now; i++)
                spots[i] = spot(s, in, y + (t + i) / wide,
                                smaller_of((t + i) % wide * s.pixels, s.out.columns - s.pixels));
            const Ahead ahead = take_lines(later, fetched, inputs);
            if (now == 2)
                convolve_tiles(s, 1, spots, weights, bias, out, add, ahead);
            else
                convolve_tiles(s, 0, spots, weights, bias, out, add, ahead);
        }
    }
}

/* Some rows and panels of a convolution. The outer loop is over panels where `panels_first`. `shared` weights are
 * the same for every group. */
INLINE void convolve(Convolution s, int panels_first, const bf16 *in, const bf16 *weights, const float *bias, int shared,
                     void *out, const bf16 *add, Later *later, Range rows, Range some) {
    const int inputs = blocks(s.in) / s.groups, each = whole_panels(s);
    const size_t size = (size_t)s.kernel * s.kernel * inputs * 2 * HALF;
    const int wide = (s.out.columns + s.pixels - 1) / s.pixels, tiles = (s.out.rows * wide + TILES - 1) / TILES;
    const int fetched = (s.fetch + tiles - 1) / tiles;   /* by a tile */
    if (some.first == 0 && !s.logits)
        for (int y = rows.first; y < rows.last; y++)
            clear_borders(s.out, (bf16 *)out + at_row(s.out, y), sizeof(bf16), (Range){0, blocks(s.out)});
    begin(s);
    for (int y = rows.first; y < rows.last; y += panels_first ? rows.last - rows.first : 1) {
        const Range now = panels_first ? rows : (Range){y, y + 1};
        for (int i = some.first; i < some.last; i++) {
            const bf16 *w = weights + (shared ? i % each : i) * size;
            const size_t there = (size_t)i * plane(s.out);
            void *to = s.logits ? (void *)((float *)out + there) : (void *)((bf16 *)out + there);
            convolve_panel(s, in + i / each * inputs * plane(s.in), w, bias ? bias + i * BLOCK : NULL, to,
                           add ? add + there : NULL, now, later, fetched);
        }
    }
    end();
}

/* One tile of a depthwise convolution: `pixels` pixels × a block. Weights and bias lie as even and odd channels. */
INLINE void depthwise_tile(Depthwise s, const bf16 *const *lines, int from, Range filter, const float *weights,
                           const float *bias, bf16 *to) {
    Pairs sums[MAX_SUMS];
    UNROLL for (int p = 0; p < s.pixels; p++) sums[p] = (Pairs){load(bias), load(bias + VECTOR)};
    for (int ky = filter.first; ky < filter.last; ky++) {
        const bf16 *x = lines[ky] + from;
        const float *w = weights + ky * s.kernel * BLOCK;
        UNROLL for (int column = 0; column < (s.pixels - 1) * s.stride + s.kernel; column++) {
            const Pairs value = load_pairs(x + column * BLOCK);
            UNROLL for (int kx = column % s.stride; kx < s.kernel; kx += s.stride) {
                const int p = (column - kx) / s.stride;
                if (column >= kx && p < s.pixels) {
                    sums[p].even += value.even * load(w + kx * BLOCK);
                    sums[p].odd += value.odd * load(w + kx * BLOCK + VECTOR);
                }
            }
        }
    }
    UNROLL for (int p = 0; p < s.pixels; p++)
        store_pairs(to + p * BLOCK, (Pairs){activate(s.activation, sums[p].even), activate(s.activation, sums[p].odd)});
}

/* Some rows and blocks of a depthwise convolution; weights [block][ky][kx][channel of the block]. */
INLINE void depthwise(Depthwise s, const bf16 *in, const float *weights, const float *bias, bf16 *out, Range rows,
                      Range some) {
    for (int y = rows.first; y < rows.last; y++) {
        if (some.first == 0)
            clear_borders(s.out, out + at_row(s.out, y), sizeof *out, (Range){0, blocks(s.out)});
        const Range filter = inside(s.kernel, s.stride, s.before, s.in.rows, y);
        const bf16 *lines[MAX_KERNEL];
        for (int ky = filter.first; ky < filter.last; ky++)
            lines[ky] = in + at_row(s.in, y * s.stride - s.before + ky);
        for (int b = some.first; b < some.last; b++) {
            for (int x = 0; x < s.out.columns; x += s.pixels) {
                const int left = smaller_of(x, s.out.columns - s.pixels);
                depthwise_tile(s, lines, b * plane(s.in) + (s.in.left - s.before + left * s.stride) * BLOCK, filter,
                               weights + b * s.kernel * s.kernel * BLOCK, bias + b * BLOCK,
                               out + at_row(s.out, y) + b * plane(s.out) + (s.out.left + left) * BLOCK);
            }
        }
    }
}

/* The mean of every channel over its `pixels`, some blocks; `out` is a map of one pixel. */
INLINE void pool(Map map, int pixels, const bf16 *in, bf16 *out, Range some) {
    const float share_of_one = 1.0f / (float)pixels;
    for (int b = some.first; b < some.last; b++) {
        Pairs total = {all(0), all(0)};
        for (int y = 0; y < map.rows; y++) {
            const bf16 *line = in + y * row(map) + b * plane(map) + map.left * BLOCK;
            for (int x = 0; x < map.columns; x++) {
                const Pairs value = load_pairs(line + x * BLOCK);
                total.even += value.even;
                total.odd += value.odd;
            }
        }
        store_pairs(out + b * BLOCK, (Pairs){total.even * share_of_one, total.odd * share_of_one});
    }
}

/* Every channel of some rows times its gate, in place. */
INLINE void scale(Map map, bf16 *values, const bf16 *gates, Range rows) {
    for (int y = rows.first; y < rows.last; y++) {
        for (int b = 0; b < blocks(map); b++) {
            bf16 *line = values + y * row(map) + b * plane(map) + map.left * BLOCK;
            const Pairs gate = load_pairs(gates + b * BLOCK);
            for (int x = 0; x < map.columns; x++) {
                const Pairs value = load_pairs(line + x * BLOCK);
                store_pairs(line + x * BLOCK, (Pairs){value.even * gate.even, value.odd * gate.odd});
            }
        }
    }
}

/* The shortcut: some rows of two maps of one shape but for their borders. */
INLINE void sum(Map a_map, const bf16 *a, Map b_map, const bf16 *b, Map out_map, bf16 *out, Range rows) {
    for (int y = rows.first; y < rows.last; y++) {
        clear_borders(out_map, out + y * row(out_map), sizeof *out, (Range){0, blocks(out_map)});
        for (int i = 0; i < blocks(out_map); i++) {
            const bf16 *from = a + y * row(a_map) + i * plane(a_map) + a_map.left * BLOCK;
            const bf16 *other = b + y * row(b_map) + i * plane(b_map) + b_map.left * BLOCK;
            bf16 *to = out + y * row(out_map) + i * plane(out_map) + out_map.left * BLOCK;
            for (int x = 0; x < out_map.columns * BLOCK; x += BLOCK) {
                const Pairs one = load_pairs(from + x), two = load_pairs(other + x);
                store_pairs(to + x, (Pairs){one.even + two.even, one.odd + two.odd});
            }
        }
    }
}
#endif
