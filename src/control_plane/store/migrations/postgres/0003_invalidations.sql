-- What gateways are to forget of what they keep of answers. One number for all environments; the newest record always
-- stays, so that numbers never go back.
CREATE TABLE cache_invalidations (
    seq BIGINT NOT NULL PRIMARY KEY,
    environment TEXT NOT NULL,
    -- Unix milliseconds.
    at_ms BIGINT NOT NULL,
    -- Who said it.
    author TEXT NOT NULL,
    -- JSON.
    what TEXT NOT NULL
);
