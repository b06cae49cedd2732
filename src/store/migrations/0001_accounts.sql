-- One text for SQLite and PostgreSQL; {identity} is the only word that differs.
-- Moments are milliseconds since 1970 UTC, truth is 0 or 1, lists and limits are JSON.

CREATE TABLE users (
    id            {identity},
    username      TEXT   NOT NULL UNIQUE,
    issuer        TEXT,
    subject       TEXT,
    email         TEXT,
    password_hash TEXT,
    tier          TEXT   NOT NULL DEFAULT 'free',
    disabled      BIGINT NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    token_version BIGINT NOT NULL DEFAULT 0,
    created_at    BIGINT NOT NULL,
    UNIQUE (issuer, subject)
);

CREATE TABLE ssh_keys (
    id         {identity},
    user_id    BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    public_key TEXT   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);
CREATE INDEX ssh_keys_by_user ON ssh_keys (user_id);

-- key_hash: SHA-256 of the whole key, 64 hexadecimal digits; the key itself is nowhere.
CREATE TABLE api_keys (
    id           {identity},
    public_id    TEXT   UNIQUE,
    key_hash     TEXT   NOT NULL UNIQUE,
    user_id      BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name         TEXT   NOT NULL,
    tier         TEXT,
    delegating   BIGINT NOT NULL DEFAULT 0 CHECK (delegating IN (0, 1)),
    models       TEXT,
    limits       TEXT   NOT NULL DEFAULT '{}',
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    revoked_at   BIGINT,
    replaced_by  BIGINT REFERENCES api_keys (id) ON DELETE SET NULL,
    last_used_at BIGINT
);
CREATE INDEX api_keys_by_user ON api_keys (user_id);
CREATE UNIQUE INDEX api_keys_by_successor ON api_keys (replaced_by);

CREATE TABLE revoked_tokens (
    jti        TEXT   PRIMARY KEY NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX revoked_tokens_by_expiry ON revoked_tokens (expires_at);

-- hour: the moment it began; key_id 0: no key (a token). No foreign keys: what was used stays
-- known after its user is gone.
CREATE TABLE usage (
    hour              BIGINT NOT NULL,
    key_id            BIGINT NOT NULL DEFAULT 0,
    user_id           BIGINT NOT NULL,
    model             TEXT   NOT NULL,
    requests          BIGINT NOT NULL DEFAULT 0,
    prompt_tokens     BIGINT NOT NULL DEFAULT 0,
    completion_tokens BIGINT NOT NULL DEFAULT 0,
    gpu_ms            BIGINT NOT NULL DEFAULT 0,
    errors            BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, user_id, key_id, model)
);
CREATE INDEX usage_by_user ON usage (user_id, hour);

CREATE TABLE audit (
    id      {identity},
    at      BIGINT NOT NULL,
    actor   TEXT   NOT NULL,
    address TEXT   NOT NULL DEFAULT '',
    action  TEXT   NOT NULL,
    target  TEXT   NOT NULL,
    detail  TEXT   NOT NULL DEFAULT ''
);
CREATE INDEX audit_by_time ON audit (at);

CREATE TABLE revision (n BIGINT NOT NULL);
INSERT INTO revision (n) VALUES (0);
