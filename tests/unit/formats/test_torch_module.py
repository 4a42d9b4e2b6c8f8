"""Torch modules as float networks."""

import numpy as np
import pytest

from milpq.errors import InvalidNetworkError, UnsupportedModelError
from milpq.network.nodes import Clamp

torch = pytest.importorskip("torch")
nn = torch.nn

from milpq.formats.torch_module import read_torch_module  # noqa: E402


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nested_sequential(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Linear(3, 5), nn.ReLU6(), nn.Dropout(0.5)),
        nn.Linear(5, 4, bias=False),
        nn.Hardtanh(-0.3, 0.2),
        nn.Identity(),
        nn.Linear(4, 2),
        nn.ReLU(),
    ).to(dtype)
    network = read_torch_module(module)
    points = np.random.default_rng(0).normal(size=(50, 3)) * 4
    wanted = module.eval()(torch.tensor(points, dtype=dtype)).detach().numpy()
    assert network.evaluate(points) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert [(c.lower, c.upper) for c in network.nodes if isinstance(c, Clamp)] == [
        (0, 6),
        (-0.3, 0.2),
        (0, np.inf),
    ]
    assert network.nodes[0].name == "1.0"


def test_one_linear_layer_and_a_sigmoid() -> None:
    assert read_torch_module(nn.Linear(2, 3)).output_size == 3
    assert "sigmoid" in read_torch_module(nn.Sequential(nn.Linear(2, 3), nn.Sigmoid())).note


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Softplus()), "Softplus '1'"),
        (nn.Sequential(nn.ReLU()), "no Linear"),
        (nn.Linear(2, 2).half(), "float16"),
    ],
)
def test_refused_by_name(module: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read_torch_module(module)


def test_a_subclass_may_do_anything() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    with pytest.raises(UnsupportedModelError, match="Doubled"):
        read_torch_module(nn.Sequential(Doubled(2, 2)))


def test_nan_and_shapes_name_the_layer() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    with torch.no_grad():
        module[1].weight[0, 0] = float("nan")
    with pytest.raises(InvalidNetworkError, match="'1'"):
        read_torch_module(module)
    with pytest.raises(InvalidNetworkError, match="'1'"):
        read_torch_module(nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 2)))
