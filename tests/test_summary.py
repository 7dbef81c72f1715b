import pytest

from hydralign.summary import final_table


@pytest.mark.parametrize("stage", ["ppo", "grpo", "rloo"])
def test_what_was_measured_before_and_after_stands_side_by_side(stage):
    figures = {f"{stage}/score_before": 0.25, f"{stage}/score_after": 1.5, "sft/val_nll": 2.125}
    figures |= {f"{stage}/eos_rate": 0.9}  # without a before
    table = final_table(figures)
    (score,) = [line for line in table.splitlines() if "score that was" in line]
    assert [cell.strip() for cell in score.split("│")[1:-1]] == [
        *(stage, "score that was trained on", "0.250", "1.500", "+1.250")
    ]
    assert f"{stage}/score" not in table
    for name, value in (("sft/val_nll", "2.125"), (f"{stage}/eos_rate", "0.9")):
        (line,) = [line for line in table.splitlines() if name in line]
        assert [cell.strip() for cell in line.split("│")[1:-1]] == [name, value]


def test_nothing_to_compare_is_no_table():
    assert "before" not in final_table({"sft/val_nll": 2.0})
