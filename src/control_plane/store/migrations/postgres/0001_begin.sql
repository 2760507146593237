-- Times are Unix milliseconds. Names are compared by their bytes.

-- One row: the queue at which changes of objects stand.
CREATE TABLE store_state (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    generation BIGINT NOT NULL,
    -- The highest version of any object that was removed: new objects begin above it.
    version_floor BIGINT NOT NULL
);
INSERT INTO store_state (id, generation, version_floor) VALUES (1, 0, 0);

CREATE TABLE objects (
    kind TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    PRIMARY KEY (kind, name)
);

CREATE TABLE blobs (
    hash BYTEA NOT NULL PRIMARY KEY,
    size BIGINT NOT NULL,
    bytes BYTEA NOT NULL
);
-- They are compressed already: trying it again would cost time and win nothing.
ALTER TABLE blobs ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- A row per environment: the newest revision, and the lock for the next one.
CREATE TABLE environment_heads (
    environment TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL
);

CREATE TABLE revisions (
    environment TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    root BYTEA NOT NULL,
    snapshot BYTEA NOT NULL REFERENCES blobs (hash),
    snapshot_size BIGINT NOT NULL,
    snapshot_raw_size BIGINT NOT NULL,
    routes BIGINT NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    author TEXT COLLATE "C" NOT NULL,
    note TEXT COLLATE "C" NOT NULL,
    rollback_of BIGINT,
    published_ms BIGINT NOT NULL,
    PRIMARY KEY (environment, seq)
);
CREATE INDEX revisions_by_snapshot ON revisions (snapshot);

-- One row: where the key log stands. The numbers of records are taken from it.
CREATE TABLE key_state (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    trimmed BIGINT NOT NULL,
    live BIGINT NOT NULL
);

-- Every hash that was ever stored or revoked. One that was revoked without having been stored has no id.
CREATE TABLE keys (
    hash BYTEA NOT NULL PRIMARY KEY,
    id TEXT COLLATE "C" UNIQUE,
    application TEXT COLLATE "C",
    key_type TEXT COLLATE "C",
    expires_ms BIGINT,
    created_ms BIGINT NOT NULL,
    revoked_ms BIGINT,
    -- The record by which it came.
    seq BIGINT NOT NULL
);
CREATE INDEX keys_by_application ON keys (application, id);

CREATE TABLE key_log (
    seq BIGINT NOT NULL PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    -- None of these: the key does not let in any more.
    id TEXT COLLATE "C",
    application TEXT COLLATE "C",
    key_type TEXT COLLATE "C",
    expires_ms BIGINT
);

CREATE TABLE instances (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    pool TEXT COLLATE "C" NOT NULL,
    registration TEXT COLLATE "C" NOT NULL,
    heartbeat TEXT COLLATE "C" NOT NULL,
    since_ms BIGINT NOT NULL,
    seen_ms BIGINT NOT NULL,
    drain BIGINT NOT NULL
);
CREATE INDEX instances_by_pool ON instances (pool, id);

-- A row per pool: the lock under which its seats are given.
CREATE TABLE pool_locks (
    pool TEXT COLLATE "C" NOT NULL PRIMARY KEY
);

CREATE TABLE settings (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);
