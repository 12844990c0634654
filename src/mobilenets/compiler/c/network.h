/* What the network is to model.c: a list of steps, compiled once for each kind of vector. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stdint.h>

typedef struct {
    const uint8_t *pixels;
    const float *weights;
    float *arena;
    float *rings;       /* memory that the thread has for itself */
} Run;

/* A thread does share `part` of `parts`. */
typedef struct {
    void (*run)(const Run *run, int part, int parts);
    const char *title;
} Step;

typedef struct {
    int count, logits;      /* steps; where the logits lie in the arena */
    const Step *steps;
} Network;

#endif
