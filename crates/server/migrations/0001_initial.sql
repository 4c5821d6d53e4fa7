-- The reference server's store. Column types and statements keep to what SQLite and PostgreSQL share
-- (BLOB/BYTEA, INTEGER/BIGINT are exchanged when the schema is created).

CREATE TABLE server_secret (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE users (
    user_id      BLOB NOT NULL PRIMARY KEY,
    username     TEXT NOT NULL UNIQUE,
    opaque       BLOB NOT NULL,
    identity_key BLOB NOT NULL,
    device_list  BLOB NOT NULL,
    list_version INTEGER NOT NULL,
    status       TEXT NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;

CREATE TABLE devices (
    device_id       BLOB NOT NULL PRIMARY KEY,
    user_id         BLOB NOT NULL REFERENCES users (user_id),
    name            TEXT NOT NULL,
    signature_key   BLOB NOT NULL,
    link_key        BLOB NOT NULL,
    status          TEXT NOT NULL,
    sealed_identity BLOB,
    created_at      INTEGER NOT NULL,
    last_seen       INTEGER NOT NULL,
    login_at        INTEGER NOT NULL
) STRICT;
CREATE INDEX devices_by_user ON devices (user_id);

CREATE TABLE refresh_tokens (
    token_hash BLOB NOT NULL PRIMARY KEY,
    family     BLOB NOT NULL,
    parent     BLOB,
    device_id  BLOB NOT NULL REFERENCES devices (device_id),
    expires_at INTEGER NOT NULL,
    spent      INTEGER NOT NULL,
    spent_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX refresh_by_parent ON refresh_tokens (parent);
CREATE INDEX refresh_by_family ON refresh_tokens (family);
CREATE INDEX refresh_by_device ON refresh_tokens (device_id);

CREATE TABLE key_packages (
    id          INTEGER NOT NULL PRIMARY KEY,
    device_id   BLOB NOT NULL REFERENCES devices (device_id),
    suite       INTEGER NOT NULL,
    key_package BLOB NOT NULL,
    last_resort INTEGER NOT NULL
) STRICT;
CREATE INDEX key_packages_by_device ON key_packages (device_id, suite, last_resort);

CREATE TABLE conversations (
    conversation_id BLOB NOT NULL PRIMARY KEY,
    kind            INTEGER NOT NULL,
    pair_key        BLOB UNIQUE,
    generation      INTEGER NOT NULL,
    group_id        BLOB NOT NULL,
    epoch           INTEGER NOT NULL,
    public_group    BLOB NOT NULL,
    group_info      BLOB NOT NULL,
    last_activity   INTEGER NOT NULL
) STRICT;

CREATE TABLE members (
    conversation_id BLOB NOT NULL REFERENCES conversations (conversation_id),
    user_id         BLOB NOT NULL REFERENCES users (user_id),
    role            INTEGER NOT NULL,
    read_seq        INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
) STRICT;
CREATE INDEX members_by_user ON members (user_id);

-- A device's stay: it is given the entries start_seq ..= end_seq (no end while its account is a member). Between a reset
-- for everyone and its Welcome a device is not in the group, but goes on reading.
CREATE TABLE leaves (
    conversation_id BLOB NOT NULL REFERENCES conversations (conversation_id),
    device_id       BLOB NOT NULL,
    user_id         BLOB NOT NULL,
    start_seq       INTEGER NOT NULL,
    end_seq         INTEGER,
    in_group        INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, device_id)
) STRICT;
CREATE INDEX leaves_by_device ON leaves (device_id);

CREATE TABLE log (
    id              INTEGER NOT NULL PRIMARY KEY,
    conversation_id BLOB NOT NULL,
    seq             INTEGER NOT NULL,
    kind            INTEGER NOT NULL,
    generation      INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    sender_user     BLOB NOT NULL,
    sender_device   BLOB NOT NULL,
    temp_id         BLOB NOT NULL,
    sent_at         INTEGER NOT NULL,
    payload         BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_by_seq ON log (conversation_id, seq);
CREATE UNIQUE INDEX log_by_temp_id ON log (sender_device, temp_id);

CREATE TABLE welcomes (
    conversation_id BLOB NOT NULL,
    seq             INTEGER NOT NULL,
    welcome         BLOB NOT NULL,
    ratchet_tree    BLOB NOT NULL,
    PRIMARY KEY (conversation_id, seq)
) STRICT;

CREATE TABLE welcome_recipients (
    conversation_id BLOB NOT NULL,
    seq             INTEGER NOT NULL,
    device_id       BLOB NOT NULL,
    PRIMARY KEY (conversation_id, device_id, seq)
) STRICT;
