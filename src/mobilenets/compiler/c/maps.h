/* How a map lies in memory, and what the kernels of every precision share. The file that includes this one
 * says how many channels a BLOCK has: as many as a cache line; and what MAX_KERNEL, the largest side of a
 * filter, is.
 *
 * A feature map lies in memory as rows × blocks of channels × columns × channels of a block, so that a
 * vector holds neighbouring channels of one pixel and a line of pixels is contiguous:
 *
 *     value(y, x, c) = map[y * row + c / block * plane + (left + x) * block + c % block]
 *
 * Columns of zeros to the left and to the right of a map are a convolution's padding. Rows of padding are
 * not stored: a kernel is told which rows of its filter lie inside the map. Channels that fill up the last
 * block are as good as zero, and not read. A map that is read soon after it is written is held a few rows at
 * a time: row y lies where row y % held does.
 *
 * Every shape is a constant where a kernel is called, every function is inlined, and the loops over a tile
 * are unrolled, so that its sums stay in registers.
 */
#ifndef MAPS_H
#define MAPS_H

#include <stddef.h>

#include "vectors.h"

#define MAX_SUMS 32    /* the most vectors of sums in a tile */

typedef struct {
    int channels, rows, columns;
    int left, right;    /* columns of zeros */
    int block;          /* BLOCK; in a picture, its channels */
    int held;           /* rows in memory: all of them, or a ring */
} Map;

typedef struct {
    Map in, out;
    int kernel, stride, before;     /* before: padding above and to the left */
    int channels;                   /* that are computed; where `out` has fewer, it holds one panel of them at a time */
    int groups;                     /* parts of the channels, whole blocks each, that are convolved alone */
    Activation activation;
    int pixels, vectors;            /* the tile: pixels of a row × vectors of output channels */
    int tall;                       /* rows of a tile: where it is more than one, rows are whole and pointwise */
    int panel;                      /* output channels that lie side by side in the packed weights */
    int half;                       /* pixels of a tile of the last panel, where that is half a block; else 0 */
    int in_twos;                    /* fp32: 2 where weights have 16 bits, and those of two inputs share a word; else 1 */
    int fetch;                      /* cache lines of later weights that are fetched beside a panel's multiply-adds */
    int logits;                     /* in bf16: whether `out` holds floats, since nothing but the caller reads it */
} Convolution;

typedef struct {
    Map in, out;                    /* where `in` has fewer channels, it holds one panel of them at a time */
    int kernel, stride, before;
    Activation activation;
    int pixels;                     /* the tile: pixels of a row × one vector of channels */
} Depthwise;

/* From `first` to before `last`: the rows, panels or blocks that a thread works on, the rows of a filter. */
typedef struct {
    int first, last;
} Range;

/* The weights that a convolution fetches while it computes, and a thread's place among them. Places count floats. A
 * thread fetches its part of every step's weights, as threads share the outputs of most steps in order; steps of which
 * every thread reads all have small ones. */
typedef struct {
    const float *weights;
    const int *begins;          /* where the weights begin of the step whose are fetched now, and those of the next one */
    int first, last;            /* all of them, of however many steps */
    int part, parts;
    int at, end;                /* what this thread fetches next, and where its part of the step ends */
} Later;

/* What a tile fetches of the weights that are wanted later: `lines`, some of them for each of its blocks of inputs. */
typedef struct {
    const float *next;
    int lines, blocks, left;
} Ahead;
#define LINE 16        /* floats of a cache line */

INLINE int smaller_of(int a, int b) { return a < b ? a : b; }
INLINE int larger_of(int a, int b) { return a > b ? a : b; }
INLINE int blocks(Map map) { return (map.channels + map.block - 1) / map.block; }
INLINE int plane(Map map) { return (map.left + map.columns + map.right) * map.block; }
INLINE int row(Map map) { return blocks(map) * plane(map); }

/* The part of a step's weights. */
INLINE void begin_step(Later *later) {
    const int *begins = later->begins, parts = later->parts;
    const int from = larger_of(begins[0], later->first), to = smaller_of(begins[1], later->last);
    later->at = begins[0] + (begins[1] - begins[0]) * later->part / parts + (from - begins[0]) / parts;
    later->end = later->at + (to - from) / parts;
}

INLINE Later later_of(const float *weights, const int *begins, int first, int last, int part, int parts) {
    Later later = {weights, begins, first, last, part, parts, first, last};
    if (parts > 1)
        begin_step(&later);
    return later;
}

/* What a tile fetches, at most `lines`, some for each of its `blocks` of inputs. */
INLINE Ahead take_lines(Later *later, int lines, int blocks) {
    if (lines == 0)
        return (Ahead){NULL, 0, 1, 0};
    const int left = larger_of(0, (later->end - later->at + LINE - 1) / LINE);
    const Ahead ahead = {later->weights + later->at, lines, blocks, smaller_of(lines, left)};
    later->at += ahead.left * LINE;
    while (later->parts > 1 && later->at >= later->end && later->begins[1] < later->last) {
        later->begins++;
        begin_step(later);
    }
    return ahead;
}

/* One block's part of `ahead`. */
INLINE void fetch(Ahead *ahead) {
    const int each = (ahead->lines + ahead->blocks - 1) / ahead->blocks;
    if (ahead->left <= 0)
        return;
    UNROLL for (int i = 0; i < each; i++) __builtin_prefetch(ahead->next + i * LINE, 0, 2);
    ahead->next += each * LINE;
    ahead->left -= each;
}

INLINE size_t at_row(Map map, int y) { return (size_t)(y % map.held) * (size_t)row(map); }

/* Columns of zeros beside some blocks of a row, of values of `size` bytes. */
INLINE void clear_borders(Map map, void *line, size_t size, Range some) {
    for (int b = some.first; b < some.last; b++) {
        char *at = (char *)line + size * b * plane(map);
        __builtin_memset(at, 0, size * map.left * map.block);
        __builtin_memset(at + size * (map.left + map.columns) * map.block, 0, size * map.right * map.block);
    }
}

/* The share of one of `parts` threads in some units of work. */
INLINE Range share(int units, int part, int parts) {
    return (Range){units * part / parts, units * (part + 1) / parts};
}

/* Panels by the time that a row of them takes, a block of channels 8: so many whole ones of `wide`, then what is left,
 * then half a block, where there is one. */
typedef struct {
    int whole, wide, left, half;
} Widths;

/* How many `rows`, of one panel after the other, come before some part of the work. */
INLINE int rows_before(int rows, Widths w, int part, int parts) {
    int work = rows * (w.whole * w.wide + w.left + w.half) * part / parts, before = w.whole * rows;
    if (work <= before * w.wide)
        return (work + w.wide / 2) / w.wide;
    work -= before * w.wide;
    if (work <= w.left * rows)
        return before + (work + w.left / 2) / w.left;
    before += w.left ? rows : 0;
    return before + (work - w.left * rows + w.half / 2) / w.half;
}

/* The share of one of `parts` threads in `rows` rows of panels whose width differs. */
INLINE Range share_by_width(int rows, Widths widths, int part, int parts) {
    return (Range){rows_before(rows, widths, part, parts), rows_before(rows, widths, part + 1, parts)};
}

/* Some rows of one panel. */
typedef struct {
    Range rows, panel;
} Piece;

/* The row nearest to `row` at which a tile begins, `tall` rows high; or the end. */
INLINE int nearest(int row, int tall, int rows) {
    return row < rows ? smaller_of((row + tall / 2) / tall * tall, rows) : rows;
}

/* The first piece of `units`, which are the rows of one panel after the other, and which keep the rest. */
INLINE Piece next_piece(int rows, int tall, Range *units) {
    const int panel = units->first / rows, from = units->first % rows;
    const int to = smaller_of(rows, from + units->last - units->first);
    units->first += to - from;
    return (Piece){{nearest(from, tall, rows), nearest(to, tall, rows)}, {panel, panel + 1}};
}

/* Which rows of a filter lie inside the map when it computes row y. */
INLINE Range inside(int kernel, int stride, int before, int rows, int y) {
    int top = y * stride - before;
    return (Range){larger_of(0, -top), smaller_of(kernel, rows - top)};
}

/* The rows of a map that some rows of the convolution over it read. */
INLINE Range reach(int kernel, int stride, int before, int rows, Range out) {
    return (Range){larger_of(0, out.first * stride - before),
                   smaller_of(rows, (out.last - 1) * stride - before + kernel)};
}

/* The output channels of a group in whole blocks: those that fill up the last one are among them, half a block
 * is not. */
INLINE int width(Convolution s) { return (s.channels + (s.half ? 0 : BLOCK - 1)) / BLOCK / s.groups * BLOCK; }

/* How many panels of whole blocks each group has. */
INLINE int whole_panels(Convolution s) { return (width(s) + s.panel - 1) / s.panel; }

/* The first block of output channels of panel i, over all groups; of the number of panels: the number of blocks. */
INLINE int block_of_panel(Convolution s, int i) {
    if (s.half && i >= whole_panels(s))
        return width(s) / BLOCK + i - whole_panels(s);
    return (i / whole_panels(s) * width(s) + i % whole_panels(s) * s.panel) / BLOCK;
}

/* Rows of a picture: bytes become numbers, normalised channel by channel. */
INLINE void normalise(Map out, const uint8_t *pixels, const float *factor, const float *offset, float *to, Range rows) {
    const int width = out.columns * out.block;
    for (int y = rows.first; y < rows.last; y++) {
        clear_borders(out, to + at_row(out, y), sizeof *to, (Range){0, blocks(out)});
        float *line = to + at_row(out, y) + out.left * out.block;
        const uint8_t *from = pixels + (size_t)y * width;
        int i = 0;
        for (; i + VECTOR <= width; i += VECTOR)
            store(line + i, load_bytes(from + i) * load(factor + i) + load(offset + i));
        for (; i < width; i++)
            line[i] = (float)from[i] * factor[i] + offset[i];
    }
}
#endif
