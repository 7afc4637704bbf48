"""Tests that a resumed run is the run in one go, of the segmentation methods that engine/test_loop.py leaves out."""

from __future__ import annotations

import pytest
import torch

CASES = {
    "ua_mt": ("ua_mt", {}),
    "cps": ("cps", {}),
    "mc_net": ("mc_net", {}),
    "bcp": ("bcp", {}),
    "bcp, resumed in its pre-training": ("bcp", {"method.pretrain_steps": 4}),
    "fba_net, three decoders": ("fba_net", {"network.decoders": 3}),
}
"""Method, and settings over the tiny recipe's."""


@pytest.mark.parametrize("case", CASES)
def test_three_steps_and_three_resumed_are_six_steps(tiny, tmp_path, case):
    method, settings = CASES[case]
    tree = tiny.recipe_tree(method)
    for key, value in settings.items():
        tree = tiny.set_key(tree, key, value)
    whole = tiny.train(tiny.make_run(tmp_path, tree, name="whole"))
    parts = tiny.make_run(tmp_path, tree, name="parts")
    tiny.train(parts, steps=3)
    resumed = tiny.train(tiny.open_run(parts.folder), resume=True)
    expected, state = whole.method.state_dict(), resumed.method.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, state[name])] == []
    records = tiny.read_log(whole.run)
    assert records == tiny.read_log(resumed.run)
    assert len({record["loss"] for record in records}) == 6
