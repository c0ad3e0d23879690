# Each target works alone on a fresh clone: it makes .venv and installs what is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# An index to take PyTorch from, before pip's own: of CPU builds, say.
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/cpu.txt
export OMP_NUM_THREADS ?= 1
export GRADIO_ANALYTICS_ENABLED := False

.PHONY: help install demo test check format clean

help:
	@echo "make demo   ask the embedded model about sample clips"
	@echo "make test   run all tests"
	@echo "make check  linter, formatter and type checker"
	@echo "make format put the code into shape"
	@echo "make clean  remove .venv and build output"

install: $(STAMP)

$(STAMP): pyproject.toml constraints/cpu.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) -e ".[dev]"
	touch $(STAMP)

SAMPLES := src/video_llama/assets/samples

demo: $(STAMP)
	@for question in "What do you see and what do you hear?" "Which way does the dog move?" "狗是什么颜色的？"; do \
		echo "$$ video-llama ask red_dog.mp4 \"$$question\""; \
		$(BIN)/video-llama ask $(SAMPLES)/red_dog.mp4 "$$question" || exit 1; \
	done
	@echo "$$ video-llama ask train.wav \"What do you hear?\""; \
	$(BIN)/video-llama ask $(SAMPLES)/train.wav "What do you hear?"
	@echo "Your own: $(BIN)/video-llama ask CLIP QUESTION, or $(BIN)/video-llama chat CLIP"

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
