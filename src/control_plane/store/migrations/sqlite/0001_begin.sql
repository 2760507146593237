-- Times are Unix milliseconds. Names are compared by their bytes.

-- One row: the queue at which changes of objects stand.
CREATE TABLE store_state (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    generation INTEGER NOT NULL,
    -- The highest version of any object that was removed: new objects begin above it.
    version_floor INTEGER NOT NULL
) STRICT;
INSERT INTO store_state (id, generation, version_floor) VALUES (1, 0, 0);

CREATE TABLE objects (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    value TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;

CREATE TABLE blobs (
    hash BLOB NOT NULL PRIMARY KEY,
    size INTEGER NOT NULL,
    bytes BLOB NOT NULL
) STRICT;

-- A row per environment: the newest revision, and the lock for the next one.
CREATE TABLE environment_heads (
    environment TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL
) STRICT;

CREATE TABLE revisions (
    environment TEXT NOT NULL,
    seq INTEGER NOT NULL,
    root BLOB NOT NULL,
    snapshot BLOB NOT NULL REFERENCES blobs (hash),
    snapshot_size INTEGER NOT NULL,
    snapshot_raw_size INTEGER NOT NULL,
    routes INTEGER NOT NULL,
    source TEXT NOT NULL,
    author TEXT NOT NULL,
    note TEXT NOT NULL,
    rollback_of INTEGER,
    published_ms INTEGER NOT NULL,
    PRIMARY KEY (environment, seq)
) STRICT;
CREATE INDEX revisions_by_snapshot ON revisions (snapshot);

-- One row: where the key log stands. The numbers of records are taken from it.
CREATE TABLE key_state (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    trimmed INTEGER NOT NULL,
    live INTEGER NOT NULL
) STRICT;

-- Every hash that was ever stored or revoked. One that was revoked without having been stored has no id.
CREATE TABLE keys (
    hash BLOB NOT NULL PRIMARY KEY,
    id TEXT UNIQUE,
    application TEXT,
    key_type TEXT,
    expires_ms INTEGER,
    created_ms INTEGER NOT NULL,
    revoked_ms INTEGER,
    -- The record by which it came.
    seq INTEGER NOT NULL
) STRICT;
CREATE INDEX keys_by_application ON keys (application, id);

CREATE TABLE key_log (
    seq INTEGER NOT NULL PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    hash BLOB NOT NULL,
    -- None of these: the key does not let in any more.
    id TEXT,
    application TEXT,
    key_type TEXT,
    expires_ms INTEGER
) STRICT;

CREATE TABLE instances (
    id TEXT NOT NULL PRIMARY KEY,
    pool TEXT NOT NULL,
    registration TEXT NOT NULL,
    heartbeat TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    seen_ms INTEGER NOT NULL,
    drain INTEGER NOT NULL
) STRICT;
CREATE INDEX instances_by_pool ON instances (pool, id);

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
