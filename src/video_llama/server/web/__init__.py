"""The page at `/`: Gradio, on the same engine, gate and decoders as the API.

texts.py         every text, in three languages
conversation.py  what a person has asked so far, as requests to the server
pictures.py      what the model was shown, as pictures
seen.py          what stands under an answer
talking.py       a question and its answer, step by step
page.py          how it looks, and what happens when something is pressed
mount.py         which of its addresses are answered
door.py          asks a browser for a key

Only page.py and mount.py need gradio.
"""
