"""`python -m video_llama` is the command `video-llama`."""

from video_llama.cli import main

if __name__ == "__main__":
    main()
