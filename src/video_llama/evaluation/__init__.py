"""Benchmarks: questions about media from published files, a model's answers, and measures.

task: what a benchmark is; tasks: one file each; files, media: their annotations and media on disk;
answers: many questions to a model at once; runner: a whole benchmark, which goes on where it
stopped; results, journal: what is kept of it; texts, metrics, cider, judge: how good the answers
are.
"""
