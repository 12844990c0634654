/* What multi-query attention needs beside convolutions, in bf16; see attention.h. */
#ifndef ATTENTION_BF16_H
#define ATTENTION_BF16_H

#include "kernels_bf16.h"

/* Where the weight of input k and output n lies, beside `inputs` blocks of inputs. */
INLINE int weight_at(int inputs, int k, int n) {
    return (n / BLOCK * inputs + k / BLOCK) * 2 * HALF + n % BLOCK / VECTOR * HALF + k % BLOCK / 2 * BLOCK
           + n % VECTOR * 2 + k % 2;
}

/* Weights as kernels_bf16.h says, where the inputs are the channels of a key and the outputs the pixels, or, where
 * `swapped`, the other way round; filled up with zeros to whole blocks. */
INLINE void pack_pixels(Map map, const bf16 *values, int swapped, bf16 *to) {
    const int pixels = map.rows * map.columns, wide = (pixels + BLOCK - 1) / BLOCK;
    const int inputs = swapped ? wide : blocks(map);
    __builtin_memset(to, 0, sizeof(bf16) * wide * blocks(map) * 2 * HALF);
    for (int pixel = 0; pixel < pixels; pixel++) {
        const bf16 *from = values + pixel / map.columns * row(map) + (map.left + pixel % map.columns) * BLOCK;
        for (int c = 0; c < map.channels; c++) {
            const bf16 value = from[c / BLOCK * plane(map) + c % BLOCK];
            to[swapped ? weight_at(inputs, pixel, c) : weight_at(inputs, c, pixel)] = value;
        }
    }
}
INLINE void pack_keys(Map map, const bf16 *keys, int panel, bf16 *to) { (void)panel, pack_pixels(map, keys, 0, to); }
INLINE void pack_values(Map map, const bf16 *values, int panel, bf16 *to) {
    (void)panel, pack_pixels(map, values, 1, to);
}

/* Softmax over the `keys` channels of every head, in place, some rows; channels beyond them become 0. */
INLINE void softmax(Map map, bf16 *scores, int keys, int heads, Range rows) {
    const int each = blocks(map) / heads;
    for (int y = rows.first; y < rows.last; y++) {
        for (int i = 0; i < heads * map.columns; i++) {
            bf16 *at = scores + (size_t)y * row(map) + i / map.columns * each * plane(map)
                       + (map.left + i % map.columns) * BLOCK;
            for (int k = keys; k < each * BLOCK; k++)
                at[k / BLOCK * plane(map) + k % BLOCK] = 0xff00;    /* -1.7e38 */
            vec largest = all(-1e38f), total = all(0);
            for (int b = 0; b < each; b++) {
                const Pairs value = load_pairs(at + b * plane(map));
                largest = larger(largest, larger(value.even, value.odd));
            }
            const float most = _mm512_reduce_max_ps((__m512)largest);
            for (int b = 0; b < each; b++) {
                const Pairs value = load_pairs(at + b * plane(map));
                const Pairs power = {exponential(value.even - most), exponential(value.odd - most)};
                store_pairs(at + b * plane(map), power);
                total += power.even + power.odd;
            }
            for (int k = keys; k < each * BLOCK; k++)
                at[k / BLOCK * plane(map) + k % BLOCK] = 0;
            const vec factor = all(1.0f / _mm512_reduce_add_ps((__m512)total));
            for (int b = 0; b < each; b++) {
                const Pairs power = load_pairs(at + b * plane(map));
                store_pairs(at + b * plane(map), (Pairs){power.even * factor, power.odd * factor});
            }
        }
    }
}
#endif
