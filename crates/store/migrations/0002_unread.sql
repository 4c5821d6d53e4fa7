-- Unread messages of each conversation, kept with every change instead of counted for every list: messages of others
-- (received, no system line) after the read position. A table of its own: the rows of conversations hold their members.
CREATE TABLE unread (
    conversation_id BLOB NOT NULL PRIMARY KEY,
    n               INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO unread SELECT c.conversation_id, COUNT(*) FROM conversations c JOIN messages m ON m.conversation_id = c.conversation_id
WHERE m.pos > (c.read_seq << 20 | 1048575) AND m.kind <> 1 AND m.status = 3 GROUP BY c.conversation_id;

CREATE TRIGGER unread_after_insert AFTER INSERT ON messages WHEN new.kind <> 1 AND new.status = 3 BEGIN
    INSERT INTO unread SELECT conversation_id, 1 FROM conversations
    WHERE conversation_id = new.conversation_id AND new.pos > (read_seq << 20 | 1048575)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;

CREATE TRIGGER unread_after_delete AFTER DELETE ON messages WHEN old.kind <> 1 AND old.status = 3 BEGIN
    UPDATE unread SET n = n - 1 WHERE conversation_id = (SELECT conversation_id FROM conversations
        WHERE conversation_id = old.conversation_id AND old.pos > (read_seq << 20 | 1048575));
END;

CREATE TRIGGER unread_after_update AFTER UPDATE OF conversation_id, pos, kind, status ON messages
WHEN (old.kind <> 1 AND old.status = 3) OR (new.kind <> 1 AND new.status = 3) BEGIN
    UPDATE unread SET n = n - 1 WHERE conversation_id = (SELECT conversation_id FROM conversations
        WHERE conversation_id = old.conversation_id AND old.kind <> 1 AND old.status = 3 AND old.pos > (read_seq << 20 | 1048575));
    INSERT INTO unread SELECT conversation_id, 1 FROM conversations
    WHERE conversation_id = new.conversation_id AND new.kind <> 1 AND new.status = 3 AND new.pos > (read_seq << 20 | 1048575)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;

CREATE TRIGGER unread_after_read AFTER UPDATE OF read_seq ON conversations WHEN old.read_seq <> new.read_seq BEGIN
    INSERT INTO unread SELECT new.conversation_id, COUNT(*) FROM messages m WHERE m.conversation_id = new.conversation_id
        AND m.pos > (new.read_seq << 20 | 1048575) AND m.kind <> 1 AND m.status = 3
    ON CONFLICT DO UPDATE SET n = excluded.n;
END;
