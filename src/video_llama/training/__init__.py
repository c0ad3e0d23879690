"""Training: a recipe, its steps, checkpoints, and a cache of what frozen encoders say.

presets, overrides ── Recipe ── trainer ─┬─ prepare, adapters    the model
                                         ├─ material, caching    the data, from pixels or cache
                                         ├─ loop, step, optim    one step
                                         └─ checkpoint, export   what stays
"""
