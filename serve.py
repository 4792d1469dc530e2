"""Serve the exported models with NVIDIA Triton: `python serve.py`."""

from omegaconf import DictConfig

from nano_cv.config.cli import main


@main("serve")
def serve(config: DictConfig) -> None:
    """Find Triton, check the ports and the models, serve, and stop without losing a request."""
    import asyncio

    from nano_cv.serving import triton
    from nano_cv.serving.ports import check_ports
    from nano_cv.serving.repository import wanted_models
    from nano_cv.serving.supervisor import Supervisor
    from nano_cv.serving.wiring import settings_of, show

    wheel = triton.find_wheel()
    settings = settings_of(config)
    wanted_models(settings.repository, settings.models)
    check_ports(settings.ports)

    async def supervise() -> None:
        await Supervisor(wheel, settings).run(show)

    asyncio.run(supervise())


if __name__ == "__main__":
    serve()
