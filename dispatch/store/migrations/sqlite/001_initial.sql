-- One row an execution. Keys grow with time and are never used twice, so that rows of one time lie
-- together however many there are, and what is still being purged is never taken for something new.
CREATE TABLE executions (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    flow TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    code TEXT,
    phase TEXT,
    last_seq INTEGER NOT NULL,
    leg_seq INTEGER NOT NULL,
    segment_seq INTEGER NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    ended_at REAL,
    worker TEXT,
    token INTEGER NOT NULL,
    runnable INTEGER NOT NULL,
    strikes INTEGER NOT NULL
) STRICT;

CREATE INDEX executions_by_status ON executions (status);
CREATE INDEX executions_by_flow ON executions (flow);
CREATE INDEX executions_by_worker ON executions (worker) WHERE worker IS NOT NULL;
CREATE INDEX executions_runnable ON executions (strikes, key) WHERE runnable = 1;

-- One row a chunk. `origins` has one character an entry, so the first seq follows from the last.
-- `private` is a MessagePack array of binaries and nils, or NULL if all are nil.
CREATE TABLE journal (
    execution_key INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    at REAL NOT NULL,
    head INTEGER NOT NULL,
    end_ TEXT NOT NULL,
    origins TEXT NOT NULL,
    frames BLOB NOT NULL,
    private BLOB,
    UNIQUE (execution_key, last_seq)
) STRICT;

CREATE TABLE waits (
    execution_key INTEGER NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    issued INTEGER NOT NULL,
    opened_seq INTEGER NOT NULL,
    settled_seq INTEGER,
    leg_seq INTEGER,
    due_at REAL,
    timeout REAL,
    digest TEXT NOT NULL,
    returns BLOB,
    private INTEGER NOT NULL,
    raw INTEGER NOT NULL,
    UNIQUE (execution_key, id)
) STRICT;

CREATE INDEX waits_by_name ON waits (execution_key, name);
CREATE INDEX waits_open ON waits (execution_key, opened_seq) WHERE status = 'open';
CREATE INDEX waits_due ON waits (due_at) WHERE status = 'open' AND due_at IS NOT NULL;

CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    execution_id TEXT NOT NULL,
    request_digest TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_execution ON idempotency (execution_id);

-- What was deleted. `execution_key` is set until its journal is purged too.
CREATE TABLE tombstones (
    execution_id TEXT PRIMARY KEY,
    deleted_at REAL NOT NULL,
    execution_key INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX tombstones_by_age ON tombstones (deleted_at);
CREATE INDEX tombstones_unpurged ON tombstones (execution_key) WHERE execution_key IS NOT NULL;

-- `process` tells workers of one process apart from all others: it cannot probe its own lock files.
CREATE TABLE workers (
    id TEXT PRIMARY KEY,
    process TEXT NOT NULL,
    since REAL NOT NULL
) STRICT, WITHOUT ROWID;
