"""Evaluate a trained model, or predict any pictures: `python infer.py input=photo.jpg`."""

from contextlib import closing

from omegaconf import DictConfig

from nano_cv.config.cli import main


@main("infer")
def infer(config: DictConfig) -> None:
    """Open the model, predict the test split or `input`, write the table and the pictures."""
    from nano_cv.config.processes import keep_memory

    keep_memory()  # before torch is loaded, if it is at all

    from nano_cv.building import run_folder
    from nano_cv.evaluation.evaluate import evaluate
    from nano_cv.evaluation.inputs import check_options, select_inputs
    from nano_cv.evaluation.opening import make_engine
    from nano_cv.evaluation.terminal import summarise
    from nano_cv.evaluation.tracking import make_logger

    check_options(config)
    folder = run_folder()
    with closing(make_engine(config)) as engine:
        inputs, data_hash, broken = select_inputs(config, engine.metadata)
        with make_logger(config, folder, "infer", data_hash) as logger:
            metrics = evaluate(config, engine, inputs, folder, logger)
            summarise(metrics, {**engine.source, "run": folder}, logger)
            if broken:  # raised here, so that the record says that this run has failed
                raise broken


if __name__ == "__main__":
    infer()
