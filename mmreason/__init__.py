"""mmreason: train open vision- and audio-language models to reason over images, video and audio."""

__version__ = "0.1.0"
