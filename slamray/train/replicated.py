"""Networks that every rank holds whole, each with its optimiser: what the trainings of encoder and decoders share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from slamray.config.compute import Compute
from slamray.train.checkpoint import copy_state, gather_optimiser, read_optimiser, write_optimiser
from slamray.train.loop import Write
from slamray.train.ranks import add_gradients, rank_and_world

WEIGHTS = "weights.safetensors"  # in a checkpoint's folder of a network: parameters and buffers


class Replicated:
    """The part of a `Trainable` that is the same for all of them; networks and optimisers go by the same names.

    A checkpoint has a folder for each network: its weights, and its optimiser's state.
    """

    validations = 0

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.rank, self.world = rank_and_world()
        self.networks: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    def add_network(self, name: str, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Train `network`, which is on its device already."""
        self.networks[name], self.optimisers[name] = network, optimiser

    def autocast(self) -> AbstractContextManager[None]:
        """Matrix products in bfloat16 where the machine computes in it; weights stay float32."""
        return torch.autocast(self.compute.device, torch.bfloat16, enabled=self.compute.precision == "bfloat16")

    def update(self, name: str, loss: torch.Tensor, clip_norm: float) -> float:
        """One step of a network's optimiser; `loss` is this rank's part of the batch's. Returns the gradient's norm."""
        network, optimiser = self.networks[name], self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        add_gradients(network.parameters())
        norm = nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimiser.step()
        return norm.item()

    def rates(self, window: Mapping[str, float]) -> dict[str, float]:
        return {}

    def validate(self) -> dict[str, float]:
        return {}

    def snapshot(self) -> Write | None:
        """A copy of every network and its optimiser's state on rank 0's CPU."""
        if self.rank > 0:
            return None
        weights = {name: copy_state(network.state_dict()) for name, network in self.networks.items()}
        states = {
            name: copy_state(gather_optimiser(self.optimisers[name], network, 0))
            for name, network in self.networks.items()
        }

        def write(folder: Path) -> None:
            for name in weights:
                (folder / name).mkdir()
                save_file(weights[name], folder / name / WEIGHTS)
                write_optimiser(folder / name, states[name])

        return write

    def load(self, checkpoint: Path) -> None:
        """Every network and optimiser as a snapshot has them."""
        for name, network in self.networks.items():
            network.load_state_dict(load_file(checkpoint / name / WEIGHTS))
            read_optimiser(checkpoint / name, self.optimisers[name], network, 0)
