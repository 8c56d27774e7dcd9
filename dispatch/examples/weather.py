"""The first flow: text, one tool that lives at the caller, a result.

While the tool call is open the flow costs nothing; the answer may come seconds or weeks later.
"""

from dispatch import Flow, Run, flow, result, tool


@flow("weather")
async def weather(run: Run[dict[str, str]]) -> Flow:
    """Ask the caller for the weather in `city`, and tell it."""
    city = run.inputs.get("city", "Oslo")
    yield f"Looking up the weather in {city}. "
    report = yield tool("get_weather", {"city": city})
    yield f"It is {report}."
    yield result(report)
