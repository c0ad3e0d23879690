"""From decoded media and conversations to model inputs."""
