import pytest
from torch.testing import assert_close

from hydralign.errors import UserError
from hydralign.models.attention import set_attention


def test_an_unknown_name_is_refused(make_toys):
    model = make_toys("own").base.load(47, 0)
    with pytest.raises(
        UserError, match=r"hardware.attention=fastest cannot be used.*sdpa or eager"
    ):
        set_attention(model, "fastest")


@pytest.mark.parametrize("kind", ["own", "lora"])
def test_roles_are_the_same_functions_with_each(make_toys, kind, sequences):
    found = []
    for name in ("eager", "sdpa", "grouped"):
        policy = make_toys(kind).role("policy", trained=True)
        set_attention(policy.network.language_model, name)
        logprobs = policy(sequences)
        logprobs.sum().backward()
        found.append((logprobs.detach(), [p.grad for p in policy.trained_parameters()]))
    assert_close(found[2], found[0], rtol=1e-4, atol=1e-5)
    assert_close(found[2], found[1], rtol=1e-4, atol=1e-5)
