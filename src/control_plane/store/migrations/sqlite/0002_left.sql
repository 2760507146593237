-- Unix milliseconds at which a gateway gave up its seat when it was stopped; 0 while it has not.
ALTER TABLE instances ADD COLUMN left_ms INTEGER NOT NULL DEFAULT 0;
