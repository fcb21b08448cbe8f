"""How arms are told apart on a page, and what the measures of a run are called there."""

from trainables.figures import COLOURS

# Arms are told apart without colour too: by the dashes of their lines and the shape of their points.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px 2px 2px 2px")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "pentagon")
STYLES = tuple(zip(COLOURS, DASHES, SYMBOLS, strict=True))
# In the order in which they are shown.
MEASURES = {
    "high_entropy_loss": "high-entropy loss",
    "low_entropy_loss": "low-entropy loss",
    "general_loss": "loss on general documents",
    "loss": "loss on all tokens",
}
