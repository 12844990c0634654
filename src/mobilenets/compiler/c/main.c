/* Classify a picture of exactly MODEL_SIDE × MODEL_SIDE pixels:  ./main picture.ppm  (.pgm for grey; with an alpha channel,
 * a file of MODEL_PIXELS bytes and nothing else) */
#include <stdio.h>

#include "model.h"

#define THREADS 2       /* processors that one picture is worth */
static _Alignas(64) unsigned char memory[MODEL_BYTES(THREADS)];
static unsigned char pixels[MODEL_PIXELS];
static float logits[MODEL_CLASSES];

static int read_header(FILE *file) {
    int width, height, most;
    if (MODEL_CHANNELS != 1 && MODEL_CHANNELS != 3)
        return 1;
    return fscanf(file, MODEL_CHANNELS == 3 ? "P6 %d %d %d%*c" : "P5 %d %d %d%*c", &width, &height, &most) == 3
           && width == MODEL_SIDE && height == MODEL_SIDE && most == 255;
}

int main(int count, char **words) {
    FILE *file = count == 2 ? fopen(words[1], "rb") : NULL;
    int best = 0;
    if (file == NULL || !read_header(file) || fread(pixels, 1, MODEL_PIXELS, file) != MODEL_PIXELS)
        return fprintf(stderr, "usage: main PICTURE.ppm, binary, %d x %d pixels of 8 bits\n", MODEL_SIDE, MODEL_SIDE), 2;
    fclose(file);
    int code = model_open(memory, sizeof memory, THREADS);
    if (code == MODEL_NO_THREADS)
        code = model_open(memory, sizeof memory, 1);
    if (code == MODEL_OK)
        code = model_run(memory, pixels, logits);
    if (code != MODEL_OK)
        return fprintf(stderr, "%s\n", model_error(code)), 3;
    model_close(memory);
    for (int i = 1; i < MODEL_CLASSES; i++)
        best = logits[i] > logits[best] ? i : best;
    printf("%s (class %d, logit %.4f)\n", model_labels[best], best, logits[best]);
    return 0;
}
