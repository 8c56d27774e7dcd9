"""The events that a flow or a streaming step can yield; all others are the engine's.

Each is a frozen Struct with keyword arguments, named as on the wire: `yield Reasoning…`, `yield
Custom(name="progress", value=0.4)`. Plain text needs none: `yield "text"`.
"""

from __future__ import annotations

from dispatch.core.events import (
    ArtifactComplete as ArtifactComplete,
    ArtifactDelta as ArtifactDelta,
    ArtifactFile as ArtifactFile,
    ArtifactStart as ArtifactStart,
    ArtifactUpdate as ArtifactUpdate,
    Custom as Custom,
    MediaComplete as MediaComplete,
    MediaDelta as MediaDelta,
    MediaStart as MediaStart,
    ReasoningComplete as ReasoningComplete,
    ReasoningDelta as ReasoningDelta,
    ReasoningStart as ReasoningStart,
    Source as Source,
    StepSkip as StepSkip,
    TextDelta as TextDelta,
    Tokens as Tokens,
    ToolInputComplete as ToolInputComplete,
    ToolInputDelta as ToolInputDelta,
    ToolOutputDelta as ToolOutputDelta,
    TurnComplete as TurnComplete,
    TurnStart as TurnStart,
)
