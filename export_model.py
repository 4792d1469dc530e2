"""Export a trained model for Triton: `python export_model.py +data=flowers +model=lenet`."""

from omegaconf import DictConfig

from nano_cv.config.cli import main


@main("export_model")
def export_model(config: DictConfig) -> None:
    """Export, compare with torch, choose a precision, and publish the next version."""
    import tempfile
    from pathlib import Path

    from nano_cv import building
    from nano_cv.evaluation.card import CARD, make_card
    from nano_cv.evaluation.engines import Torch
    from nano_cv.evaluation.exported import Onnx
    from nano_cv.evaluation.terminal import summarise
    from nano_cv.evaluation.tracking import make_logger
    from nano_cv.evaluation.trained import trained_task
    from nano_cv.export import graph, parity, precision, repository
    from nano_cv.export.samples import open_samples, parity_inputs
    from nano_cv.serving.process import prove

    precision.check_processor(config.precision)
    folder, path = building.run_folder(), building.weights_file(config)
    task = trained_task(config, path)
    samples = open_samples(config, task.metadata)
    inputs = parity_inputs(config, task.metadata, samples)

    data_hash = task.metadata.data_hash
    with (
        tempfile.TemporaryDirectory() as staging,
        make_logger(config, folder, "export_model", data_hash) as logger,
    ):
        file = Path(staging, "model.onnx")
        graph.export(task, file)
        trained = Torch(task, path, "cpu")
        figures = parity.check_parity(trained, Onnx(file), *inputs, config.tolerance)

        best, variants = precision.choose(config, file, samples)
        if samples:
            for metric, value in samples.score(trained).items():
                figures[f"val/{metric}/torch"] = value
            figures |= precision.list_figures(variants)

        graph.annotate(best.file, task.metadata, {"precision": best.precision, **figures})
        version = repository.publish(
            Path(config.paths.models),
            task.metadata,
            best.file,
            triton=config.triton,
            entries=best.entries,
            prove=prove,
        )
        logger.log_metrics(figures)
        card = make_card(task.metadata, figures)
        (folder / CARD).write_text(card)
        logger.log_file(folder / CARD)
        logger.log_model(version / "model.onnx", task.metadata, card, task.mode)
        places: dict[str, Path | str] = {"precision": best.precision, "weights": path}
        summarise(figures, places | {"model": version, "run": folder}, logger)


if __name__ == "__main__":
    export_model()
