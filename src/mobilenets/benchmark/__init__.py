"""Latency done right: engines in processes of their own, taken in turn, and what the numbers do not say.

samples      medians, and the interval of a ratio
conditions   the processor, its compiler, and whether it was quiet
peaks        what the processor can do: multiply-adds and bytes per second
worker       the program that runs one engine
engines      which session each engine is, and how it is set
results      a file of lines of data
rounds       engines in turn
comparison   what came out
layers       the compiled network, step by step
roofline     the same as a picture
"""
