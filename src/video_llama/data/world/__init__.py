"""A seeded synthetic world of things that are seen and heard, whose every fact is known.

things: the vocabulary; scene: the facts of a clip, drawn at random; draw: its frames; sounds: its
sound; questions: what can be asked about it and the true answers; write: all of it as files.
"""
