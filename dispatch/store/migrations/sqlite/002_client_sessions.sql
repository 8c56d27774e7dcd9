-- Pages without a secret: tokens that say where they may be used and for what, and the sessions that
-- began with one. Of tokens and session ids only digests are kept.
CREATE TABLE client_tokens (
    id TEXT PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    flow TEXT NOT NULL,
    origins TEXT NOT NULL,
    created_at REAL NOT NULL,
    revoked_at REAL
) STRICT, WITHOUT ROWID;

CREATE TABLE client_sessions (
    digest TEXT PRIMARY KEY,
    token_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    expires_at REAL NOT NULL,
    tools TEXT NOT NULL,
    fingerprint TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX client_sessions_by_expiry ON client_sessions (expires_at);

CREATE TABLE client_feedback (
    id TEXT PRIMARY KEY,
    at REAL NOT NULL,
    token_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
