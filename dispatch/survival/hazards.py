"""What doesn't give a replay what it gave the first time, and what to write instead: a table.

Python's own is named function by function. Of libraries that talk to the network it is a call whose
name is a verb of theirs (`client.messages.create`), for to make a client asks nobody anything.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from dispatch.survival.names import Known, Made, Named, Value, attribute, path_of, plain


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Hazard(NamedTuple):
    """`does` follows the flow's name, `why` and `instead` make the rest of a sentence. `{}` is how
    it is written.

    `in_libraries`: it counts too if a library does it by itself. `seen`: the world sees that it was
    done, so that it is no clean-up for `finally`.
    """

    does: str
    why: str
    instead: str
    in_libraries: bool = False
    seen: bool = False


CLOCK = Hazard(
    "reads the clock by {}",
    "a replay reads another time",
    "write `run.now`, which is recorded, or read it in a @step",
    in_libraries=True,
)
PAUSE = Hazard(
    "sleeps in its body by {}",
    "that holds up the whole server, and again on every replay",
    "write `yield sleep(…)`",
    in_libraries=True,
)
CHANCE = Hazard(
    "draws by chance, by {}",
    "a replay draws something else",
    "write `run.random` or `run.uuid()`, which draw the same again, or draw in a @step",
    in_libraries=True,
)
NETWORK = Hazard(
    "asks a model or a service in its body, by {}",
    "that is not recorded, and done again on every replay",
    "put it into a @step and yield that",
    in_libraries=True,
    seen=True,
)
PROGRAM = Hazard(
    "runs a program in its body, by {}",
    "that is not recorded, and done again on every replay",
    "put it into a @step and yield that",
    in_libraries=True,
    seen=True,
)
FILE = Hazard(
    "uses a file in its body, by {}",
    "a replay may find something else there, or nothing",
    "put it into a @step and yield that",
    in_libraries=True,
)
ENVIRONMENT = Hazard(
    "reads the environment by {}",
    "it may be another after a restart",
    "take it from `run.inputs`, or read it in a @step",
)
PROCESS = Hazard(
    "uses what differs from process to process, by {}",
    "a replay in another process gets something else",
    "write `run.id` or `run.uuid()`, or ask for it in a @step",
)
STATE = Hazard(
    "{}",
    "that lasts no longer than the process, and a replay begins with what is there by then",
    "keep it in a local variable or in `run.state`, take it from `run.inputs`, or leave it to a "
    "@step",
)
SET_ORDER = Hazard(
    "yields in the order of the set {}",
    "it differs from process to process",
    "write `sorted(…)`",
)
AWAIT = Hazard(
    "awaits in its body",
    "that is not recorded, and done again on every replay",
    "put it into a @step and yield that",
)
ASYNC_FOR = Hazard(
    "iterates an async generator in its body",
    "what that awaits is not recorded, and done again on every replay",
    "make it a streaming @step and yield that; or yield the generator, if it is a helper",
)
SCOPE = Hazard(
    "has {} open across a yield",
    "a cancel scope, task group or time limit is of one process, and what it cancels is the "
    "engine's",
    "write `timeout=` at the wait, or `race` it with `sleep`",
)
CLEANUP = Hazard(
    "acts on the world in its clean-up",
    "that runs each time the flow is merely closed for a while, and not at all after a kill -9",
    "put what must be undone into a @step under `except Cancelled`",
)

_PYTHON: dict[Hazard, dict[str, str]] = {
    CLOCK: {
        "time": "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time "
        "process_time_ns ctime",
        "datetime": "datetime.now datetime.utcnow datetime.today date.today",
    },
    PAUSE: {"time": "sleep"},
    CHANCE: {
        "random": "betavariate binomialvariate choice choices expovariate gammavariate gauss "
        "getrandbits lognormvariate normalvariate paretovariate randbytes randint random randrange "
        "sample shuffle triangular uniform vonmisesvariate weibullvariate SystemRandom",
        "secrets": "SystemRandom choice randbelow randbits token_bytes token_hex token_urlsafe",
        "uuid": "uuid1 uuid4 uuid6 uuid7 uuid8 getnode",
        "os": "urandom getrandom",
        "ssl": "RAND_bytes",
    },
    NETWORK: {
        "socket": "create_connection create_server getaddrinfo gethostbyname gethostbyaddr "
        "getfqdn socket.connect socket.send socket.sendall socket.recv",
        "urllib.request": "urlopen urlretrieve OpenerDirector.open",
        "http.client": "HTTPConnection.request HTTPConnection.connect HTTPConnection.getresponse",
        "smtplib": "SMTP SMTP_SSL SMTP.send_message SMTP.sendmail",
        "ftplib": "FTP FTP_TLS",
        "imaplib": "IMAP4 IMAP4_SSL",
        "poplib": "POP3 POP3_SSL",
        "sqlite3": "connect Connection.execute Connection.executemany Connection.commit "
        "Cursor.execute Cursor.executemany",
    },
    PROGRAM: {
        "subprocess": "run call check_call check_output getoutput getstatusoutput Popen",
        "os": "system popen fork forkpty posix_spawn posix_spawnp execv execve execvp kill",
    },
    FILE: {
        "builtins": "open",
        "os": "open read write listdir scandir walk stat lstat access readlink mkdir makedirs "
        "rename replace link symlink",
        "os.path": "exists lexists isfile isdir islink getsize getmtime getctime getatime",
        "pathlib": "Path.open Path.read_text Path.read_bytes Path.write_text Path.write_bytes "
        "Path.exists Path.is_file Path.is_dir Path.iterdir Path.glob Path.rglob Path.stat "
        "Path.mkdir Path.touch Path.rename Path.replace",
        "shutil": "copy copy2 copyfile copytree move make_archive unpack_archive disk_usage which",
        "tempfile": "mkstemp mkdtemp NamedTemporaryFile TemporaryFile TemporaryDirectory",
        "glob": "glob iglob",
        "fileinput": "input",
        "linecache": "getline getlines",
        "codecs": "open",
        "gzip": "open",
        "bz2": "open",
        "lzma": "open",
        "zipfile": "ZipFile",
        "tarfile": "open",
        "shelve": "open",
        "dbm": "open",
    },
    ENVIRONMENT: {"os": "getenv getenvb getcwd getlogin", "locale": "getlocale"},
    PROCESS: {
        "os": "getpid getppid",
        "threading": "get_ident get_native_id",
        "socket": "gethostname",
        "platform": "node",
        "builtins": "id hash",
    },
}

_LIBRARIES: dict[Hazard, str] = {
    NETWORK: "aioboto3 aiobotocore aiohttp aiomysql aio_pika aiosqlite anthropic asyncpg asyncssh "
    "boto3 botocore celery chromadb cohere elasticsearch fireworks google.cloud google.genai "
    "google.generativeai googleapiclient groq grpc httpcore httpx huggingface_hub instructor kafka "
    "langchain langchain_anthropic langchain_community langchain_core langchain_openai langgraph "
    "litellm llama_index mcp mistralai motor mysql nats ollama openai opensearchpy paho paramiko "
    "peewee pika pinecone playwright psycopg psycopg2 pydantic_ai pymongo pymysql qdrant_client "
    "redis replicate requests selenium sendgrid slack_sdk smolagents sqlalchemy.engine "
    "sqlalchemy.ext.asyncio sqlalchemy.orm.session stripe tavily together twilio urllib3 voyageai "
    "vertexai weaviate websocket websockets zmq",
    CHANCE: "faker numpy.random",
}

#: How the names begin of what asks the network, in libraries that do.
_VERBS = words(
    "add ainvoke acompletion acreate astream batch call chat commit complete completion connect "
    "count create delete describe download embed embedding execute executemany fetch find get "
    "generate head ingest insert invoke list load lpush lpop options patch ping poll post predict "
    "publish pull push put query read receive recv rerank request retrieve rpush rpop run search "
    "select send set stream subscribe sync text transcribe update upload upsert urlopen wait write"
)
#: Modules of theirs that only describe.
_HARMLESS = frozenset({"exceptions", "output_parsers", "prompts", "types"})
#: What of `numpy.random` is a seed away from being the same again.
_SEEDED = frozenset({"default_rng", "RandomState", "Generator", "SeedSequence", "PCG64", "Philox"})

#: Where what is told may differ: nobody replays a log.
_LOGS = words(
    "ddtrace logging loguru opentelemetry prometheus_client rich sentry_sdk statsd structlog "
    "warnings"
)


class Hazards:
    """The table, looked up by object where Python's modules are loaded, and else by name."""

    def __init__(self) -> None:
        self._names: dict[str, Hazard] = {}
        self._objects: dict[int, Hazard] = {}
        for hazard, modules in _PYTHON.items():
            for module, names in modules.items():
                for name in names.split():
                    self._add(hazard, module, name)
        self._libraries = {
            library: hazard for hazard, all_of in _LIBRARIES.items() for library in all_of.split()
        }

    def _add(self, hazard: Hazard, module: str, name: str) -> None:
        self._names[f"{module}.{name}"] = hazard
        found: Value | None = Known(sys.modules.get(module))
        for part in name.split("."):
            found = attribute(found, part)
        if isinstance(found, Known):
            self._objects[id(plain(found.object))] = hazard

    def of_call(self, called: Value | None, *, has_arguments: bool) -> Hazard | None:
        """What calling it would be."""
        match called:
            case Named(name):
                return self._names.get(name) or self._of_library(name)
            case Known(function) if function is random.Random:
                return None if has_arguments else CHANCE
            case Known(_, Made(by)) if _draws_the_same_again(by) or _is_mapping(by):
                return None
            case Known(type() as cls):
                return self._objects.get(id(cls))
            case Known(function):
                hazard = self._objects.get(id(plain(function)))
                return hazard or self._of_library(path_of(function))
            case _:
                return None

    def covers(self, module: str) -> bool:
        """Whether it is of a library that the table has: what it does inside is told."""
        parts = module.split(".")
        return any(".".join(parts[: n + 1]) in self._libraries for n in range(len(parts)))

    @staticmethod
    def is_log(called: Value | None) -> bool:
        match called:
            case Known(function):
                name = path_of(function)
            case Named(name):
                pass
            case _:
                return False
        return name == "builtins.print" or name.partition(".")[0] in _LOGS

    def _of_library(self, name: str) -> Hazard | None:
        parts = name.split(".")
        for length in range(1, len(parts)):
            hazard = self._libraries.get(".".join(parts[:length]))
            if hazard is NETWORK and _is_verb(parts[-1]) and not _HARMLESS & set(parts):
                return hazard
            if hazard is CHANCE and not _SEEDED & set(parts):
                return hazard
        return None


def _is_verb(name: str) -> bool:
    return name.partition("_")[0] in _VERBS


def _draws_the_same_again(cls: Any) -> bool:
    """Made in the flow, it was given a seed, or that was warned of."""
    return cls is random.Random


def _is_mapping(cls: Any) -> bool:
    """Whose `get` asks nobody."""
    return isinstance(cls, type) and issubclass(cls, Mapping)
