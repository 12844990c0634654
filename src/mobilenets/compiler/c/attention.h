/* What multi-query attention needs beside convolutions: its keys and values as packed weights, and a softmax.
 * Then queries times keys and scores times values are convolutions, one group for each head. */
#ifndef ATTENTION_H
#define ATTENTION_H

#include "kernels.h"

INLINE float value_at(Map map, const float *values, int pixel, int c) {
    const int y = pixel / map.columns, x = pixel % map.columns;
    return values[y * row(map) + c / BLOCK * plane(map) + (map.left + x) * BLOCK + c % BLOCK];
}

/* Weights [panel][input][channel of the panel], where the inputs are the channels of a key and the outputs
 * the pixels, filled up with zeros to whole blocks. */
INLINE void pack_keys(Map map, const float *keys, int panel, float *to) {
    const int pixels = map.rows * map.columns, width = (pixels + BLOCK - 1) / BLOCK * BLOCK;
    const int inputs = blocks(map) * BLOCK;
    for (int p = 0; p < width; p += panel) {
        const int wide = smaller_of(panel, width - p);
        for (int c = 0; c < inputs; c++)
            for (int i = 0; i < wide; i++)
                *to++ = p + i < pixels && c < map.channels ? value_at(map, keys, p + i, c) : 0;
    }
}

/* The same with pixels as the inputs and the channels of a value as the outputs. */
INLINE void pack_values(Map map, const float *values, int panel, float *to) {
    const int pixels = map.rows * map.columns, inputs = (pixels + BLOCK - 1) / BLOCK * BLOCK;
    const int width = blocks(map) * BLOCK;
    for (int p = 0; p < width; p += panel) {
        const int wide = smaller_of(panel, width - p);
        for (int pixel = 0; pixel < inputs; pixel++)
            for (int i = 0; i < wide; i++)
                *to++ = pixel < pixels && p + i < map.channels ? value_at(map, values, pixel, p + i) : 0;
    }
}

/* Softmax over the `keys` channels of every head, in place, some rows; channels beyond them become 0. */
INLINE void softmax(Map map, float *scores, int keys, int heads, Range rows) {
    const int each = blocks(map) / heads;
    for (int y = rows.first; y < rows.last; y++) {
        for (int i = 0; i < heads * map.columns; i++) {
            float *at = scores + y * row(map) + i / map.columns * each * plane(map)
                        + (map.left + i % map.columns) * BLOCK;
            for (int k = keys; k < each * BLOCK; k++)
                at[k / BLOCK * plane(map) + k % BLOCK] = -1e30f;
            vec largest = all(-1e30f), total = all(0);
            float lanes[VECTOR], most, whole = 0;
            for (int b = 0; b < each; b++)
                for (int c = 0; c < BLOCK; c += VECTOR)
                    largest = larger(largest, load(at + b * plane(map) + c));
            store(lanes, largest);
            most = lanes[0];
            for (int l = 1; l < VECTOR; l++)
                most = lanes[l] > most ? lanes[l] : most;
            for (int b = 0; b < each; b++) {
                for (int c = 0; c < BLOCK; c += VECTOR) {
                    const vec power = exponential(load(at + b * plane(map) + c) - most);
                    store(at + b * plane(map) + c, power);
                    total += power;
                }
            }
            for (int k = keys; k < each * BLOCK; k++)
                at[k / BLOCK * plane(map) + k % BLOCK] = 0;
            store(lanes, total);
            for (int l = 0; l < VECTOR; l++)
                whole += lanes[l];
            for (int b = 0; b < each; b++)
                for (int c = 0; c < BLOCK; c += VECTOR)
                    store(at + b * plane(map) + c, load(at + b * plane(map) + c) * (1.0f / whole));
        }
    }
}
#endif
