/* The kernels of a MobileNet in fp32, for vectors of any length; maps.h says how a map lies in memory. */
#ifndef KERNELS_H
#define KERNELS_H

#define BLOCK 16       /* channels of a block */
#include "maps.h"

/* Bytes of a panel's weights that stay in a first-level cache; of a larger panel those are fetched that are
 * wanted SOON, so many rows later. */
#define NEAR (24 * 1024)
#define SOON 8

/* Where pixel p of a tile lies; a tile of several rows begins at column 0. */
INLINE int pixel(Convolution s, Map map, int p, int step) {
    return p / s.out.columns * row(map) + p % s.out.columns * step;
}

/* Rows of the packed weights of a filter's pixel: of one input, or of two. */
INLINE int weight_rows(Convolution s) { return (s.in.channels / s.groups + s.in_twos - 1) / s.in_twos; }
INLINE vec load_weights(Convolution s, const char *from) {
    return s.in_twos == 1 ? load((const float *)from) : load_upper(from);
}
/* Bytes from the weights of number k of a row's inputs, or of the half's pairs, to the next ones. */
INLINE int to_next(Convolution s, int k, int row) {
    const int bytes = row * (int)sizeof(float);
    return s.in_twos == 1 ? bytes : k % 2 ? bytes - 2 : 2;
}

/* Before a tile's products with the block of inputs at `x`, it fetches what it reads next: of a map that is held whole
 * the same pixels a block further on, which lie in the second-level cache, or in that of a processor whose thread wrote
 * them; of a picture what lies here. */
INLINE void fetch_inputs(Convolution s, int pixels, const float *x) {
    const int step = s.stride * s.in.block;
    if (VECTOR == 1)
        return;
    if (s.in.block < BLOCK)
        UNROLL for (int i = 0; i < pixels * step; i += LINE) __builtin_prefetch(x + i);
    else if (s.in.held == s.in.rows && blocks(s.in) > 1)
        UNROLL for (int p = 0; p < pixels; p++) __builtin_prefetch(x + plane(s.in) + pixel(s, s.in, p, step));
}

/* One tile of `pixels` × `vectors` sums. `lines[ky]` is the first value that the filter's row ky meets,
 * `weights` and `bias` begin at the tile's first output channel. */
INLINE void convolve_tile(Convolution s, int pixels, int vectors, int panel, const float *const *lines, int from,
                          Range filter, const float *weights, const float *bias, float *to, const float *add,
                          Ahead ahead) {
    const int channels = s.in.channels / s.groups, step = s.stride * s.in.block;
    /* The pixels of a picture have no gaps between them, so that a row of the filter is one run of values. */
    const int picture = s.in.block == channels;
    const int columns = picture ? 1 : s.kernel, run = picture ? s.kernel * channels : s.in.block;
    const int values = picture ? run : channels;
    const int words = weight_rows(s) * panel;   /* of a filter's pixel */
    const int from_far = VECTOR > 1 && (size_t)s.kernel * s.kernel * words * sizeof *weights > NEAR;
    vec sums[MAX_SUMS];
    UNROLL for (int v = 0; v < vectors; v++) {
        const vec start = bias ? load(bias + v * VECTOR) : all(0);
        UNROLL for (int p = 0; p < pixels; p++) sums[p * vectors + v] = start;
    }
    for (int ky = filter.first; ky < filter.last; ky++) {
        const float *pixel_weights = weights + (size_t)ky * s.kernel * words;
        for (int kx = 0; kx < columns; kx++, pixel_weights += words) {
            for (int c = 0; c < values; c += run) {
                const float *x = lines[ky] + from + kx * s.in.block + c / run * plane(s.in);
                const int end = smaller_of(run, values - c);
                const char *w = (const char *)(pixel_weights + c / s.in_twos * panel);
                fetch(&ahead);
                fetch_inputs(s, pixels, x);
                UNROLL_BY(2) for (int k = 0; k < end; w += to_next(s, k, panel), k++) {
                    if (from_far)
                        UNROLL for (int i = 0; i < vectors * VECTOR; i += BLOCK)
                            __builtin_prefetch(w + (SOON * panel + i) * sizeof(float));
                    vec w_of_k[MAX_SUMS];
                    UNROLL for (int v = 0; v < vectors; v++)
                        w_of_k[v] = load_weights(s, w + v * VECTOR * sizeof(float));
                    UNROLL for (int p = 0; p < pixels; p++)
                        UNROLL for (int v = 0; v < vectors; v++) 
                            sums[p * vectors + v] += x[pixel(s, s.in, p, step) + k] * w_of_k[v];
                }
            }
        }
    }
    UNROLL for (int v = 0; v < vectors; v++) {
        const int at = v * VECTOR / BLOCK * plane(s.out) + v * VECTOR % BLOCK;
        UNROLL for (int p = 0; p < pixels; p++) {
            const vec sum = sums[p * vectors + v];
            const vec value = vectors > 1 ? activate_by_bits(s.activation, sum) : activate(s.activation, sum);
            const int there = at + pixel(s, s.out, p, BLOCK);
            store(to + there, add ? value + load(add + there) : value);
        }
    }
}

/* `tall` rows of output, `vectors` vectors of channels; every tile fetches `fetched` lines. */
INLINE void convolve_columns(Convolution s, int tall, int vectors, int panel, const float *const *lines, int from,
                             Range filter, const float *weights, const float *bias, float *to, const float *add,
                             Later *later, int fetched) {
    const int wide = tall > 1 ? s.out.columns : smaller_of(s.pixels, s.out.columns);
    const int rest = s.out.columns % wide, whole = s.out.columns - rest;
    for (int x = 0; x < whole; x += wide)
        convolve_tile(s, tall * wide, vectors, panel, lines, from + x * s.stride * s.in.block, filter, weights, bias,
                      to + x * BLOCK, add ? add + x * BLOCK : NULL, take_lines(later, fetched, blocks(s.in)));
    if (rest)
        convolve_tile(s, rest, vectors, panel, lines, from + whole * s.stride * s.in.block, filter, weights, bias,
                      to + whole * BLOCK, add ? add + whole * BLOCK : NULL, take_lines(later, fetched, blocks(s.in)));
}

/* `tall` rows of output, the channels of one panel, which is `panel` wide. */
INLINE void convolve_panel(Convolution s, int tall, int panel, const float *const *lines, int from, Range filter,
                           const float *weights, const float *bias, float *to, const float *add, Later *later,
                           int fetched) {
    const int tile = smaller_of(s.vectors * VECTOR, panel), rest = panel % tile, whole = panel - rest;
    for (int c = 0; c < whole; c += tile) {
        const int at = c / BLOCK * plane(s.out) + c % BLOCK;
        convolve_columns(s, tall, tile / VECTOR, panel, lines, from, filter, weights + c, bias ? bias + c : NULL,
                         to + at, add ? add + at : NULL, later, fetched);
    }
    if (rest) {
        const int at = whole / BLOCK * plane(s.out) + whole % BLOCK;
        convolve_columns(s, tall, rest / VECTOR, panel, lines, from, filter, weights + whole,
                         bias ? bias + whole : NULL, to + at, add ? add + at : NULL, later, fetched);
    }
}

/* Half a block of output channels, `pixels` pixels: a vector holds for each of them the sums over the even and
 * the odd inputs, so that its other half is not idle. Weights [pair of inputs][output][of the pair], of 16 bits those of
 * two pairs in a word. */
INLINE void convolve_half(Convolution s, int pixels, const float *in, const float *weights, const float *bias,
                          float *to, const float *add) {
    enum { PARTS = BLOCK / VECTOR, STORED = VECTOR == 16 ? 1 : PARTS / 2 };
    vec sums[MAX_SUMS];
    UNROLL for (int i = 0; i < pixels * PARTS; i++) sums[i] = all(0);
    for (int c = 0; c < s.in.channels; c += BLOCK) {
        const float *x = in + c / BLOCK * plane(s.in);
        fetch_inputs(s, pixels, x);
        const int end = smaller_of(BLOCK, s.in.channels - c);
        const char *from = (const char *)(weights + c / 2 / s.in_twos * BLOCK);
        for (int k = 0; k < end; from += to_next(s, k / 2, BLOCK), k += 2) {
            UNROLL for (int v = 0; v < PARTS; v++) {
                const vec w = load_weights(s, from + v * VECTOR * sizeof(float));
                UNROLL for (int p = 0; p < pixels; p++)
                    sums[p * PARTS + v] += load_two(x + p * s.stride * BLOCK + k, v) * w;
            }
        }
    }
    UNROLL for (int p = 0; p < pixels; p++) {
        vec found[STORED];
        add_pairs(sums + p * PARTS, found);
        UNROLL for (int v = 0; v < STORED; v++) {
            const int at = p * BLOCK + v * VECTOR;
            const vec value = activate(s.activation, found[v] + load(bias + v * VECTOR));
            store(to + at, add ? value + load(add + at) : value);
        }
        UNROLL for (int v = STORED; v < PARTS; v++) store(to + p * BLOCK + v * VECTOR, all(0));
    }
}

/* A row of the last panel, where that is half a block. */
INLINE void convolve_half_row(Convolution s, const float *line, const float *weights, const float *bias, float *to,
                              const float *add) {
    const int wide = smaller_of(s.half, s.out.columns), rest = s.out.columns % wide, whole = s.out.columns - rest;
    for (int x = 0; x < whole; x += wide)
        convolve_half(s, wide, line + x * s.stride * BLOCK, weights, bias, to + x * BLOCK, add ? add + x * BLOCK : NULL);
    if (rest)
        convolve_half(s, rest, line + whole * s.stride * BLOCK, weights, bias, to + whole * BLOCK,
                      add ? add + whole * BLOCK : NULL);
}

/* `tall` rows of output from row y on, some panels. `shared` weights are the same for every group. */
INLINE void convolve_rows(Convolution s, int tall, const float *in, int y, const float *weights, const float *bias,
                          int shared, float *out, const float *add, Later *later, Range some, int fetched) {
    const int inputs = s.in.channels / s.groups, alone = s.out.channels < s.channels;
    const int whole = width(s) / s.panel, rest = width(s) % s.panel, each = whole_panels(s);
    const Range filter = inside(s.kernel, s.stride, s.before, s.in.rows, y);
    const float *lines[MAX_KERNEL];
    for (int ky = filter.first; ky < filter.last; ky++)
        lines[ky] = in + at_row(s.in, y * s.stride - s.before + ky);
    for (int i = some.first; i < smaller_of(some.last, s.groups * each); i++) {
        const int group = i / each, p = i % each, c = BLOCK * block_of_panel(s, i);
        const int from = group * (inputs / s.in.block) * plane(s.in) + (s.in.left - s.before) * s.in.block;
        const size_t words = (size_t)s.kernel * s.kernel * weight_rows(s);  /* of an output channel */
        const float *w = weights + ((shared ? 0 : group * width(s)) + p * s.panel) * words;
        const size_t at = at_row(s.out, y) + (alone ? 0 : c / BLOCK) * plane(s.out) + s.out.left * BLOCK;
        const float *b = bias ? bias + c : NULL, *added = add ? add + at : NULL;
        if (p < whole)
            convolve_panel(s, tall, s.panel, lines, from, filter, w, b, out + at, added, later, fetched);
        else if (rest)
            convolve_panel(s, tall, rest, lines, from, filter, w, b, out + at, added, later, fetched);
    }
    if (s.half && some.last > each) {
        const float *w = weights + (size_t)width(s) * weight_rows(s);
        for (int i = 0; i < tall; i++) {
            const size_t at = at_row(s.out, y + i) + (alone ? 0 : width(s) / BLOCK) * plane(s.out) + s.out.left * BLOCK;
            const float *line = in + at_row(s.in, (y + i) * s.stride) + s.in.left * BLOCK;
            convolve_half_row(s, line, w, bias + width(s), out + at, add ? add + at : NULL);
        }
    }
}

/* Some rows and panels of a convolution, packed weights [panel][ky][kx][input][channel of the panel], then those of
 * the half panel, if there is one. The outer loop is over panels where `panels_first`: then the weights of a panel stay
 * in the cache, else the row does. Where tiles are `tall`, `rows` begin at one of them. `later`, unless there is nothing
 * to fetch: the weights that are fetched beside the products. */
INLINE void convolve(Convolution s, int panels_first, const float *in, const float *weights, const float *bias,
                     int shared, float *out, const float *add, Later *later, Range rows, Range some) {
    const Range theirs = {block_of_panel(s, some.first), block_of_panel(s, some.last)};
    for (int y = rows.first; y < rows.last; y++)
        clear_borders(s.out, out + at_row(s.out, y), sizeof *out,
                      s.out.channels < s.channels ? (Range){0, blocks(s.out)} : theirs);
    const int rest = s.out.rows % s.tall;
    const int high = (s.out.rows + s.tall - 1) / s.tall, wide = (s.out.columns + s.pixels - 1) / s.pixels;
    const int tiles = high * wide * ((s.panel + s.vectors * VECTOR - 1) / (s.vectors * VECTOR));
    const int fetched = (s.fetch + tiles - 1) / tiles;   /* by a tile */
    for (int i = some.first; i < some.last; i += panels_first ? 1 : some.last - some.first) {
        const Range now = panels_first ? (Range){i, i + 1} : some;
        int y = rows.first;
        for (; y + s.tall <= rows.last; y += s.tall)
            convolve_rows(s, s.tall, in, y, weights, bias, shared, out, add, later, now, fetched);
        if (rest && y < rows.last)
            convolve_rows(s, rest, in, y, weights, bias, shared, out, add, later, now, fetched);
    }
}

/* A linear layer. Every weight is used once and comes from far, so it has few bits: it is a whole number of `units`, of
 * which each output has its own. Weights [some blocks of outputs][input][words][output of the block]. Three blocks share
 * two words, 21 bits each: those of two are the upper ones of the words, those of the third lie below. Or four blocks
 * share three words, 24 bits each, or two one word, 16 bits each. What lies below a weight was thought of when it was
 * rounded. */
typedef struct {
    int inputs, blocks;     /* blocks of outputs */
    int words;              /* 1, 2 or 3; one block more shares them */
    Activation activation;
} Linear;

/* The weights of an input for the blocks that share words. */
INLINE void load_shared(Linear s, const int32_t *from, vec *weights) {
    const ints first = load_ints(from);
    if (s.words == 1) {
        weights[0] = from_ints(load_upper_ints((const char *)from));
        weights[1] = from_ints(first);
        return;
    }
    const ints second = load_ints(from + BLOCK);
    weights[0] = from_ints(first);
    weights[1] = from_ints(second);
    if (s.words == 2) {
        weights[2] = from_ints((ints)((words)first << 21 | ((words)second << 11 & 0x1ff800)));
        return;
    }
    const ints third = load_ints(from + 2 * BLOCK);
    weights[2] = from_ints(third);
    weights[3] = from_ints((ints)((words)first << 24 | ((words)second << 16 & 0xff0000) | ((words)third << 8 & 0xff00)));
}

/* Behind a ReLU, `places` has room for the numbers of all inputs and of INPUTS_AHEAD: the weights of those that are zero
 * are not read, and the others' are fetched so far ahead. `some` counts blocks that share words. */
INLINE void linear(Linear s, const float *in, const int32_t *weights, const float *units, const float *bias, float *out,
                   uint16_t *places, Range some) {
    enum { LANES = VECTOR == 1 ? 4 : BLOCK, VECTORS = LANES / VECTOR, CHAINS = VECTOR == 16 ? 2 : 1 };
    const int blocks = s.words + 1, row = s.words * BLOCK;
    int count = s.inputs;
    if (places) {
        count = 0;
        for (int i = 0; i < s.inputs; i++) {
            places[count] = (uint16_t)i;
            count += in[i] != 0;
        }
        for (int i = 0; i < INPUTS_AHEAD; i++) places[count + i] = (uint16_t)(s.inputs + places[i]);   /* of the next blocks */
    }
    for (int group = some.first; group < some.last; group++) {
        const int32_t *theirs = weights + (size_t)group * s.inputs * row;
        for (int lane = 0; lane < BLOCK; lane += LANES) {
            vec sums[CHAINS][VECTORS][4];
            UNROLL for (int i = 0; i < CHAINS * VECTORS * 4; i++) (&sums[0][0][0])[i] = all(0);
            for (int i = 0; i < count; i += CHAINS) {
                UNROLL for (int chain = 0; chain < CHAINS; chain++) {
                    if (chain && i + chain == count)
                        break;
                    const int input = places ? places[i + chain] : i + chain;
                    const int32_t *soon = theirs + (size_t)(places ? places[i + chain + INPUTS_AHEAD] : 0) * row;
                    if (places && VECTOR > 1)
                        UNROLL for (int k = 0; k < s.words; k++) __builtin_prefetch(soon + k * BLOCK);
                    const vec x = all(in[input]);
                    UNROLL for (int v = 0; v < VECTORS; v++) {
                        vec w[4];
                        load_shared(s, theirs + (size_t)input * row + lane + v * VECTOR, w);
                        UNROLL for (int k = 0; k < blocks; k++) sums[chain][v][k] += x * w[k];
                    }
                }
            }
            UNROLL for (int k = 0; k < blocks; k++) {
                if (blocks * group + k >= s.blocks)
                    break;
                UNROLL for (int v = 0; v < VECTORS; v++) {
                    const int to = (blocks * group + k) * BLOCK + lane + v * VECTOR;
                    vec sum = sums[0][v][k];
                    UNROLL for (int chain = 1; chain < CHAINS; chain++) sum += sums[chain][v][k];
                    store(out + to, activate(s.activation, sum * load(units + to) + load(bias + to)));
                }
            }
        }
    }
}

/* Where `total`, what the tile computes is added to it. */
INLINE void depthwise_tile(Depthwise s, int pixels, const float *const *lines, int from, Range filter,
                           const float *weights, const float *bias, float *to, vec *total) {
    /* A line is read once where it has room beside the sums: a load for every product is too many. */
    const int columns = (pixels - 1) * s.stride + s.kernel;
    const int held = VECTOR == 16 && pixels + columns < 32;
    vec sums[MAX_SUMS], line[2 * MAX_SUMS];
    UNROLL for (int p = 0; p < pixels; p++) sums[p] = load(bias);
    for (int ky = filter.first; ky < filter.last; ky++) {
        const float *x = lines[ky] + from;
        if (held)
            UNROLL for (int c = 0; c < columns; c++) line[c] = hold(load(x + c * BLOCK));
        UNROLL for (int kx = 0; kx < s.kernel; kx++) {
            const vec w = load(weights + (ky * s.kernel + kx) * BLOCK);
            UNROLL for (int p = 0; p < pixels; p++) {
                const int c = p * s.stride + kx;
                sums[p] += (held ? line[c] : load(x + c * BLOCK)) * w;
            }
        }
    }
    vec halves[2] = {all(0), all(0)};
    UNROLL for (int p = 0; p < pixels; p++) {
        const vec value = activate_by_bits(s.activation, sums[p]);
        store(to + p * BLOCK, value);
        halves[p % 2] += value;
    }
    if (total)
        *total += halves[0] + halves[1];
}

/* One row of a depthwise convolution, some blocks; weights [block][ky][kx][channel of the block]. The sum of each
 * channel over the row goes to `sums`, where there is such a map. */
INLINE void depthwise_row(Depthwise s, const float *const *lines, Range filter, const float *weights,
                          const float *bias, float *to, float *sums, Range some) {
    const int rest = s.out.columns % s.pixels, whole = s.out.columns - rest;
    const int first = s.in.channels < s.out.channels ? some.first : 0;
    for (int b = some.first; b < some.last; b++) {
        const float *w = weights + b * s.kernel * s.kernel * BLOCK;
        for (int c = 0; c < BLOCK; c += VECTOR) {
            const int from = (b - first) * plane(s.in) + (s.in.left - s.before) * BLOCK + c;
            float *line = to + b * plane(s.out) + s.out.left * BLOCK + c;
            vec total = all(0), *added = sums ? &total : NULL;
            for (int x = 0; x < whole; x += s.pixels)
                depthwise_tile(s, s.pixels, lines, from + x * s.stride * BLOCK, filter, w + c, bias + b * BLOCK + c,
                               line + x * BLOCK, added);
            if (rest)
                depthwise_tile(s, rest, lines, from + whole * s.stride * BLOCK, filter, w + c, bias + b * BLOCK + c,
                               line + whole * BLOCK, added);
            if (sums)
                store(sums + b * BLOCK + c, total);
        }
    }
}

/* Some rows and blocks of a depthwise convolution; `sums`, where it is one, a map of a column: each row's sums. */
INLINE void depthwise(Depthwise s, const float *in, const float *weights, const float *bias, float *out, float *sums,
                      Range rows, Range some) {
    for (int y = rows.first; y < rows.last; y++) {
        clear_borders(s.out, out + at_row(s.out, y), sizeof *out, some);
        const Range filter = inside(s.kernel, s.stride, s.before, s.in.rows, y);
        const float *lines[MAX_KERNEL];
        for (int ky = filter.first; ky < filter.last; ky++)
            lines[ky] = in + at_row(s.in, y * s.stride - s.before + ky);
        depthwise_row(s, lines, filter, weights, bias, out + at_row(s.out, y),
                      sums ? sums + y * blocks(s.out) * BLOCK : NULL, some);
    }
}

/* The sum of every channel over `pixels`, some blocks; `out` is a map of one pixel, and holds the mean. */
INLINE void pool(Map map, int pixels, const float *in, float *out, Range some) {
    for (int b = some.first; b < some.last; b++) {
        for (int c = 0; c < BLOCK; c += VECTOR) {
            vec total = all(0);
            for (int y = 0; y < map.rows; y++) {
                const float *line = in + y * row(map) + b * plane(map) + map.left * BLOCK + c;
                vec even = all(0), odd = all(0);
                for (int x = 0; x + 1 < map.columns; x += 2) {
                    even += load(line + x * BLOCK);
                    odd += load(line + (x + 1) * BLOCK);
                }
                if (map.columns % 2)
                    even += load(line + (map.columns - 1) * BLOCK);
                total += even + odd;
            }
            store(out + b * BLOCK + c, total * (1.0f / (float)pixels));
        }
    }
}

/* Every channel of some rows times its gate, in place. */
INLINE void scale(Map map, float *values, const float *gates, Range rows) {
    for (int y = rows.first; y < rows.last; y++) {
        for (int b = 0; b < blocks(map); b++) {
            for (int c = 0; c < BLOCK; c += VECTOR) {
                float *line = values + y * row(map) + b * plane(map) + map.left * BLOCK + c;
                const vec gate = load(gates + b * BLOCK + c);
                for (int x = 0; x < map.columns; x++)
                    store(line + x * BLOCK, load(line + x * BLOCK) * gate);
            }
        }
    }
}

/* The packed weights of the pointwise convolution `s`, times the gate of each input: some panels. So its map need not
 * be. They become floats. */
INLINE void scale_weights(Convolution s, const float *gates, const float *weights, float *out, Range some) {
    const int inputs = s.in.channels, each = whole_panels(s);
    for (int i = some.first; i < smaller_of(some.last, each); i++) {
        const int c = i * s.panel, wide = smaller_of(s.panel, width(s) - c);
        const char *from = (const char *)(weights + (size_t)c * weight_rows(s));
        float *to = out + (size_t)c * inputs;
        for (int k = 0; k < inputs; from += to_next(s, k, wide), k++) {
            const vec gate = all(gates[k]);
            for (int v = 0; v < wide; v += VECTOR)
                store(to + k * wide + v, load_weights(s, from + v * sizeof(float)) * gate);
        }
    }
    if (s.half && some.last > each) {
        const char *from = (const char *)(weights + (size_t)width(s) * weight_rows(s));
        float *to = out + (size_t)width(s) * inputs;
        for (int k = 0; k < inputs; from += to_next(s, k / 2, BLOCK), k += 2) {
            UNROLL for (int v = 0; v < BLOCK / VECTOR; v++) {
                const vec w = load_weights(s, from + v * VECTOR * sizeof(float));
                store(to + k / 2 * BLOCK + v * VECTOR, w * load_two(gates + k, v));
            }
        }
    }
}

/* The shortcut: some rows of two maps of one shape but for their borders. */
INLINE void sum(Map a_map, const float *a, Map b_map, const float *b, Map out_map, float *out, Range rows) {
    for (int y = rows.first; y < rows.last; y++) {
        clear_borders(out_map, out + y * row(out_map), sizeof *out, (Range){0, blocks(out_map)});
        for (int i = 0; i < blocks(out_map); i++) {
            const float *from = a + y * row(a_map) + i * plane(a_map) + a_map.left * BLOCK;
            const float *other = b + y * row(b_map) + i * plane(b_map) + b_map.left * BLOCK;
            float *to = out + y * row(out_map) + i * plane(out_map) + out_map.left * BLOCK;
            for (int x = 0; x < out_map.columns * BLOCK; x += VECTOR)
                store(to + x, load(from + x) + load(other + x));
        }
    }
}
#endif
