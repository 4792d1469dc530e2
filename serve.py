"""Serve the exported models to people and programs: `python serve.py`."""

from omegaconf import DictConfig

from nano_cv.config.cli import main


@main("serve")
def serve(config: DictConfig) -> None:
    """Open the front door, start Triton behind it, and stop without losing a request."""
    import asyncio

    from nano_cv.serving import service

    asyncio.run(service.serve(config))


if __name__ == "__main__":
    serve()
