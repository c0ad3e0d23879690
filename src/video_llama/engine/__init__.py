"""Many answers at once from one language model.

request.py    what is asked, and what comes back, piece by piece
scheduler.py  who runs, who waits; numbers only, no tensors
cache.py      keys and values of those who run, one row each
prefix.py     keys and values of those who ran, for prompts that begin alike
runner.py     one pass of the model over the rows; fused.py for models like LLaMA
matrix.py     a weight in the order in which its products are fast
sampler.py    from logits to the next id of every row
handle.py     the asker's end of a request
job.py        the engine's end of it
engine.py     the thread that drives all of these
own_thread.py work beside the engine, which leaves no threads behind
features.py   what the encoders made of media, kept
"""
