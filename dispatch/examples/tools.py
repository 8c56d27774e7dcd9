"""Tools that live at the caller: one, several at once, those of a web page, a question.

A call suspends the flow until its output is posted. `gather` opens several in one go, answered in
the order they stand there, whatever order the outputs come in. The prefix `webmcp:` makes a
browser widget look for the tool in its page.
"""

import json
from typing import Any

from dispatch import Flow, Run, flow, gather, result, step, tool


def in_words(output: Any) -> str:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


@flow("one_tool")
async def one_tool(run: Run[Any]) -> Flow:
    """Ask for the weather in Oslo; a step keeps the output."""
    output = yield tool("get_weather", {"city": "Oslo"})
    yield f"In Oslo: {in_words(output)}"
    kept = yield keep(output)
    yield result(kept)


@step
async def keep(output: Any) -> dict[str, Any]:
    return {"weather": output}


@flow("parallel_tools")
async def parallel_tools(run: Run[Any]) -> Flow:
    """Ask for the weather in two places at once."""
    oslo, lima = yield gather(
        tool("get_weather", {"city": "Oslo"}),
        tool("get_weather", {"city": "Lima"}),
    )
    yield f"In Oslo: {in_words(oslo)}. In Lima: {in_words(lima)}."
    yield result({"Oslo": oslo, "Lima": lima})


@flow("page_tool")
async def page_tool(run: Run[Any]) -> Flow:
    """Ask the page for the colour of its box."""
    color = yield tool("webmcp:get_page_color", {"element": "box"})
    yield f"The box is {in_words(color)}."
    yield result(color)


@flow("page_tools_parallel")
async def page_tools_parallel(run: Run[Any]) -> Flow:
    """Have the page add two numbers, by two calls of one tool."""
    outputs = yield gather(
        tool("webmcp:add_number", {"value": 3}),
        tool("webmcp:add_number", {"value": 4}),
    )
    yield f"The page says {in_words(outputs[0])}, then {in_words(outputs[1])}."
    yield result(outputs)


@flow("ask")
async def ask(run: Run[Any]) -> Flow:
    """Ask a person to choose: chat widgets show this tool as an answer sheet."""
    question = {
        "question": "Which colour do you like?",
        "header": "Colour",
        "options": [{"label": "Red"}, {"label": "Blue"}],
    }
    answer = yield tool("ask_user_question", {"questions": [question]})
    yield f"You chose {in_words(answer)}."
    yield result(answer)
