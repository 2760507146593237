-- Each environment keeps the newest of its own.
CREATE INDEX cache_invalidations_by_environment ON cache_invalidations (environment, seq);
