"""Sources: where documents come from."""

from trainables.sources.builtin import Builtin
from trainables.sources.files import Files
from trainables.sources.gym import ReasoningGym
from trainables.sources.hub import Hub
from trainables.sources.records import Templates
from trainables.sources.splitting import Source, general_documents

__all__ = ["Builtin", "Files", "Hub", "ReasoningGym", "Source", "Templates", "general_documents"]
