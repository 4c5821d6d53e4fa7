-- Unread messages of a conversation, kept with every change instead of counted for every list: messages of others (received,
-- no system line) after the read position.
ALTER TABLE conversations ADD COLUMN unread INTEGER NOT NULL DEFAULT 0;

UPDATE conversations SET unread = (SELECT COUNT(*) FROM messages m WHERE m.conversation_id = conversations.conversation_id
    AND m.pos > (conversations.read_seq << 20 | 1048575) AND m.kind <> 1 AND m.status = 3);

CREATE TRIGGER unread_after_insert AFTER INSERT ON messages WHEN new.kind <> 1 AND new.status = 3 BEGIN
    UPDATE conversations SET unread = unread + 1
    WHERE conversation_id = new.conversation_id AND new.pos > (read_seq << 20 | 1048575);
END;

CREATE TRIGGER unread_after_delete AFTER DELETE ON messages WHEN old.kind <> 1 AND old.status = 3 BEGIN
    UPDATE conversations SET unread = unread - 1
    WHERE conversation_id = old.conversation_id AND old.pos > (read_seq << 20 | 1048575);
END;

CREATE TRIGGER unread_after_update AFTER UPDATE OF conversation_id, pos, kind, status ON messages
WHEN (old.kind <> 1 AND old.status = 3) OR (new.kind <> 1 AND new.status = 3) BEGIN
    UPDATE conversations SET unread = unread - 1
    WHERE conversation_id = old.conversation_id AND old.kind <> 1 AND old.status = 3 AND old.pos > (read_seq << 20 | 1048575);
    UPDATE conversations SET unread = unread + 1
    WHERE conversation_id = new.conversation_id AND new.kind <> 1 AND new.status = 3 AND new.pos > (read_seq << 20 | 1048575);
END;

CREATE TRIGGER unread_after_read AFTER UPDATE OF read_seq ON conversations WHEN old.read_seq <> new.read_seq BEGIN
    UPDATE conversations SET unread = (SELECT COUNT(*) FROM messages m WHERE m.conversation_id = new.conversation_id
        AND m.pos > (new.read_seq << 20 | 1048575) AND m.kind <> 1 AND m.status = 3)
    WHERE conversation_id = new.conversation_id;
END;
