"""Tests of gathering over processes: reference (one process with the joined batch), by hand, gradient."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.nn.parallel import DistributedDataParallel

from medcontrast.distributed import gather, gather_chosen, gather_with_gradient, rank, world_size
from medcontrast.losses.foreground_background import pull, push

PROCESSES = 2
CHOSEN = [3, 0, 2]  # two rows of the second process, one of the first, in another order than theirs


def contrast(embeddings):
    return pull(embeddings) + push(embeddings[::2], embeddings[1::2])


def make_model():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 5)


def rows():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


def process(number, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=PROCESSES)
    model = DistributedDataParallel(make_model())
    mine = rows()[2 * number : 2 * number + 2]
    loss = contrast(gather_with_gradient(model(mine)))
    loss.backward()
    gradient = model.module.weight.grad.clone()
    model.zero_grad()
    uneven = gather_chosen(model(mine), torch.tensor(CHOSEN))
    contrast(uneven).backward()
    result = {
        "chosen": uneven.detach(),
        "chosen_gradient": model.module.weight.grad.clone(),
        "rank": rank(),
        "world_size": world_size(),
        "loss": loss.item(),
        "gradient": gradient,
        "rows": gather(mine),
        "bools": gather(torch.tensor([number == 0, True])),
        "columns": gather(torch.full((2, 3), float(number)).T),
    }
    torch.save(result, f"{folder}/{number}.pt")
    dist.destroy_process_group()


def test_alone_gathering_is_the_identity():
    assert (rank(), world_size()) == (0, 1)
    tensor = torch.randn(2, 3, requires_grad=True)
    assert gather_with_gradient(tensor) is tensor
    assert torch.equal(gather(tensor), tensor) and not gather(tensor).requires_grad
    assert torch.equal(gather_chosen(tensor, torch.tensor([1, 0])), tensor[[1, 0]])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(process, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(PROCESSES)]


def test_two_processes_give_the_gradient_of_one_with_the_joined_batch(results):
    model = make_model()
    loss = contrast(model(rows()))
    loss.backward()
    for result in results:
        assert result["loss"] == pytest.approx(loss.item(), rel=1e-6)
        torch.testing.assert_close(result["gradient"], model.weight.grad)


def test_chosen_rows_and_their_gradient_are_those_of_one_process(results):
    model = make_model()
    chosen = model(rows())[CHOSEN]
    contrast(chosen).backward()
    for result in results:
        torch.testing.assert_close(result["chosen"], chosen.detach())
        torch.testing.assert_close(result["chosen_gradient"], model.weight.grad)


def test_rows_come_in_the_order_of_rank(results):
    for number, result in enumerate(results):
        assert (result["rank"], result["world_size"]) == (number, PROCESSES)
        assert torch.equal(result["rows"], rows())
        assert result["bools"].tolist() == [True, True, False, True]
        assert result["columns"][:, 0].tolist() == [0.0] * 3 + [1.0] * 3
