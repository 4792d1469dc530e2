"""Evaluate a trained model, or predict any pictures: `python infer.py input=photo.jpg`."""

from omegaconf import DictConfig

from nano_cv.cli import main


@main("infer")
def infer(config: DictConfig) -> None:
    """Load the weights, predict the test split or `input`, write the table and the pictures."""
    from nano_cv.processor import keep_memory

    keep_memory()  # before torch is loaded

    from nano_cv import building, weights
    from nano_cv.evaluation import evaluate
    from nano_cv.inputs import select
    from nano_cv.summary import summarise
    from nano_cv.tracking import make_logger

    folder, path = building.run_folder(), building.weights_file(config)

    contract = weights.read_contract(path)
    weights.check_network(contract, path, config.model.name, building.network_options(config))
    task = building.make_task(config, contract)
    weights.load(task, path)

    data = building.make_data(config)
    batches = select(config, data, contract)
    logger = make_logger(config, folder, "infer", data.data_hash)
    metrics = evaluate(config, task, data, batches, folder, logger)
    summarise(metrics, {"weights": path, "run": folder}, logger)


if __name__ == "__main__":
    infer()
