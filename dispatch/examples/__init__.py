"""The example flows, each readable in a minute. Begin with `weather.py`.

They import only what any flow author would: `dispatch` and `dispatch.events`.
"""

from dispatch.examples.agent import agent
from dispatch.examples.approval import delete_with_approval
from dispatch.examples.echo import echo
from dispatch.examples.refund import refund
from dispatch.examples.timing import failing, quiet, slow
from dispatch.examples.tokens import tokens, tokens_step
from dispatch.examples.tools import ask, one_tool, page_tool, page_tools_parallel, parallel_tools
from dispatch.examples.weather import weather

FLOWS = (
    agent,
    ask,
    delete_with_approval,
    echo,
    failing,
    one_tool,
    page_tool,
    page_tools_parallel,
    parallel_tools,
    quiet,
    refund,
    slow,
    tokens,
    tokens_step,
    weather,
)
