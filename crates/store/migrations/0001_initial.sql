-- The device's store. Everything in it is encrypted by SQLCipher. Ids are 16-byte blobs, times unix milliseconds.

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE contacts (
    user_id      BLOB NOT NULL PRIMARY KEY,
    username     TEXT NOT NULL,
    identity_key BLOB NOT NULL,
    device_list  BLOB NOT NULL,
    list_version INTEGER NOT NULL,
    verified     INTEGER NOT NULL DEFAULT 0,
    -- 0: as pinned; 1: changed, told; 2: changed while verified, sending waits for a confirmation
    changed      INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX contacts_by_name ON contacts (username);

CREATE TABLE conversations (
    conversation_id BLOB NOT NULL PRIMARY KEY,
    kind            INTEGER NOT NULL,
    title           TEXT NOT NULL,
    peer            BLOB,
    generation      INTEGER NOT NULL,
    suite           INTEGER NOT NULL,
    -- 0 being created, 1 active, 2 waiting to join, 3 left or removed, 4 session broken
    state           INTEGER NOT NULL,
    last_seq        INTEGER NOT NULL,
    read_seq        INTEGER NOT NULL,
    last_activity   INTEGER NOT NULL,
    next_n          INTEGER NOT NULL,
    draft           TEXT NOT NULL DEFAULT '',
    roster          BLOB NOT NULL,
    -- the leaf keys must be renewed before anything is sent (the store was restored from a copy)
    needs_rejoin    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX conversations_by_activity ON conversations (last_activity DESC);
CREATE INDEX conversations_by_peer ON conversations (peer) WHERE peer IS NOT NULL;

-- pos orders a conversation: place in the log times 2^20, so that system lines fit between; unsent rows come last.
CREATE TABLE messages (
    id              INTEGER NOT NULL PRIMARY KEY,
    conversation_id BLOB NOT NULL,
    pos             INTEGER NOT NULL,
    seq             INTEGER,
    temp_id         BLOB NOT NULL,
    sender          BLOB NOT NULL,
    sender_device   BLOB NOT NULL,
    kind            INTEGER NOT NULL,
    body            TEXT NOT NULL,
    reply_to        BLOB,
    sent_at         INTEGER NOT NULL,
    status          INTEGER NOT NULL,
    cause           TEXT NOT NULL DEFAULT '',
    raw             BLOB
) STRICT;
CREATE UNIQUE INDEX messages_by_pos ON messages (conversation_id, pos);
CREATE UNIQUE INDEX messages_by_temp_id ON messages (conversation_id, temp_id, sender);
CREATE INDEX messages_undecryptable ON messages (conversation_id, seq) WHERE kind = 2;

CREATE VIRTUAL TABLE message_words USING fts5 (body, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 0', prefix = '2 3');
INSERT INTO message_words (message_words, rank) VALUES ('secure-delete', 1);

CREATE TABLE outbox (
    id              INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    conversation_id BLOB NOT NULL,
    kind            TEXT NOT NULL,
    temp_id         BLOB NOT NULL,
    body            BLOB NOT NULL,
    ciphertext      BLOB,
    generation      INTEGER NOT NULL DEFAULT 0,
    epoch           INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0,
    not_before      INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX outbox_by_temp_id ON outbox (temp_id);
CREATE INDEX outbox_by_conversation ON outbox (conversation_id, id);

-- Newest count of each sending device; a hole means that something was held back.
CREATE TABLE counters (
    conversation_id BLOB NOT NULL,
    device_id       BLOB NOT NULL,
    n               INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, device_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE resends (
    conversation_id BLOB NOT NULL,
    seq             INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    next_at         INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, seq)
) STRICT, WITHOUT ROWID;

-- Answers given, so that nobody can make this device answer for ever.
CREATE TABLE resent (
    conversation_id BLOB NOT NULL,
    seq             INTEGER NOT NULL,
    device_id       BLOB NOT NULL,
    times           INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, seq, device_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE mls (
    scope BLOB NOT NULL,
    label TEXT NOT NULL,
    key   BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (scope, label, key)
) STRICT, WITHOUT ROWID;

-- People this device knows to belong to a conversation, from group changes it has merged itself. The server's roster is
-- not believed: nobody else may join by an external commit or be in a group this device is invited to again.
CREATE TABLE trusted (
    conversation_id BLOB NOT NULL,
    user_id         BLOB NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
) STRICT, WITHOUT ROWID;

-- Places of this device's own messages that hold nothing to show (requests and answers between devices).
CREATE TABLE silent (
    conversation_id BLOB NOT NULL,
    seq             INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, seq)
) STRICT, WITHOUT ROWID;
