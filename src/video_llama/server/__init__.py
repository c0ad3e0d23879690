"""The server: an OpenAI-compatible API over one model.

protocol.py   what requests and responses look like; nothing happens here
refusal.py    every "no", with its status and its words
gate.py       the one way in for media: folders, hosts, limits
files.py      uploaded files, until they expire
decoding.py   media are decoded in processes that may crash, hang or grow; wire.py: their replies
asking.py     a request's messages as questions with media
serving.py    from a request to the pieces of its answer; no web framework
replies.py    pieces as OpenAI's completions and chunks
metrics.py    what Prometheus is told
guard.py      keys, hosts and the size of bodies, before anything is read
app.py        the routes
web/          the page at /
run.py        all of it put together, until SIGTERM
"""
