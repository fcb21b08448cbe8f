"""The README.md of a confirmed model, in the form of the Hugging Face hub: what it is, how good, how to repeat it."""

import yaml

from search.results.files import describe_result, format_best_schedule
from search.results.model_result import ModelResult, label_arm, recommend_arm
from search.space import EXACT, Space
from search.studies.comparison import POINTS, point_of
from trainables.config.command_line import invocation
from trainables.config.data import HubData
from trainables.models.resolve import HUB, of_hub

# The model card, in a model's folder.
CARD = "README.md"
_WORDS = {"best": "its best evaluation", "final": "the last epoch"}


def render_card(result: ModelResult, space: Space) -> str:
    """The card of the model that a confirmation recommends.

    Args:
        result: confirmed.
    """
    arm = recommend_arm(result, space)
    assert arm is not None
    about: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["entrodrop"] if arm == result.chosen else [],
    }
    if result.model.startswith(HUB):
        about["base_model"] = of_hub(result.model)[0]
    if isinstance(space.data, HubData):
        about["datasets"] = [space.data.path]
    comparison = result.comparisons[arm]
    rows = []
    for point in POINTS:
        cells = [_WORDS[point], f"{comparison.losses[point][space.measure]:.4f}", "-"]
        if (found := comparison.differences.get(point, {}).get(space.measure)) is not None:
            cells[2] = f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
        rows.append(f"| {' | '.join(cells)} |")
    words = describe_result(result, space)
    name = "High-entropy loss on the test documents in nats"
    if space.measure == EXACT:
        name = "Share of right answers to the test questions"
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(about)}---\n",
            f"# {space.name}: {result.model}, fine-tuned with {label_arm(arm)}\n",
            f"The search that chose how says: {words}\n",
            f"{name}, a mean over the confirmation's seeds, and the difference",
            f"to no dropout with its interval. This model is from {_WORDS[point_of(space)]} of the first seed.\n",
            "| after | value | difference |\n|---|---|---|",
            *rows,
            f"\nTo train like this: `{invocation('trainables.finetune')} schedule.yaml`, where schedule.yaml is",
            f"\n```yaml\n{format_best_schedule(result, space)}```\n",
        ]
    )
