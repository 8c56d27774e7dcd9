"""The events that a flow or a streaming step can yield; all others are the engine's.

Each is a frozen Struct with keyword arguments, named as on the wire: `yield Reasoning…`, `yield
Custom(name="progress", value=0.4)`. Plain text needs none: `yield "text"`.
"""

from __future__ import annotations

from dispatch.core.events import (
    ArtifactComplete,
    ArtifactDelta,
    ArtifactFile,
    ArtifactStart,
    ArtifactUpdate,
    Custom,
    MediaComplete,
    MediaDelta,
    MediaStart,
    ReasoningComplete,
    ReasoningDelta,
    ReasoningStart,
    Source,
    StepSkip,
    TextDelta,
    Tokens,
    ToolInputComplete,
    ToolInputDelta,
    ToolOutputDelta,
    TurnComplete,
    TurnStart,
)

__all__ = [
    "ArtifactComplete",
    "ArtifactDelta",
    "ArtifactFile",
    "ArtifactStart",
    "ArtifactUpdate",
    "Custom",
    "MediaComplete",
    "MediaDelta",
    "MediaStart",
    "ReasoningComplete",
    "ReasoningDelta",
    "ReasoningStart",
    "Source",
    "StepSkip",
    "TextDelta",
    "Tokens",
    "ToolInputComplete",
    "ToolInputDelta",
    "ToolOutputDelta",
    "TurnComplete",
    "TurnStart",
]
