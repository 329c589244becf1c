"""The workload in pfl-research 0.6.0: `pfl_rounds.py [--bf16] DATA_DIR ROUNDS`, one process or more (torchrun)."""

import os
import sys
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional
from workload import BATCH, COHORT, LR, WARM_UP, Rounds, clients, network


class Trained(nn.Module):
    """The network with the loss that pfl asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def loss(self, images: Tensor, classes: Tensor) -> Tensor:
        """Mean cross-entropy of a batch."""
        self.train()
        return functional.cross_entropy(self.network(images), classes)

    def metrics(self, images: Tensor, classes: Tensor) -> dict[str, Any]:
        """None: nothing is evaluated."""
        return {}


class Clock(TrainingProcessCallback):
    """Ends a round of `Rounds`."""

    def __init__(self) -> None:
        self.rounds = Rounds()

    def after_central_iteration(self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int) -> Any:
        self.rounds.end()
        return False, Metrics()


def main(data_dir: str, rounds: int, bf16: bool) -> None:
    """Every round."""
    parts = clients(data_dir)
    users = FederatedDataset(
        lambda user: Dataset(raw_data=list(parts[user])), get_user_sampler("random", range(len(parts)))
    )
    module = Trained()
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
        amp_dtype=torch.bfloat16 if bf16 else None,
    )
    clock = Clock()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=WARM_UP + rounds,
            evaluation_frequency=10**9,
            train_cohort_size=COHORT,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=users, val_data=users, postprocessors=[WeightByUser()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH, local_max_grad_norm=None
        ),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    if os.environ.get("RANK", "0") == "0":
        clock.rounds.tell()


if __name__ == "__main__":
    *flags, data_dir, rounds = sys.argv[1:]
    main(data_dir, int(rounds), bf16="--bf16" in flags)
