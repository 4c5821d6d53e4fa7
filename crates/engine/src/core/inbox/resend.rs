//! Messages that could not be read: answering who asks, taking what is answered.

use crate::EngineResult;
use crate::core::Cx;
use sc_e2ee::content::{Content, Message, ResendAnswer, ResendRequest, Resent, Text};
use sc_e2ee::group::Leaf;
use sc_protocol::TempId;
use sc_protocol::rest::ConversationKind;
use sc_store::model::{Conversation, RowKind};

/// Messages older than this are not sent again.
const RESEND_AGE_MS: i64 = 14 * 86_400_000;

/// Answers to one device for one message.
const RESEND_TIMES: u32 = 3;

/// Answers a request, sealed to the device that asked: for what this account wrote, for own devices, and, in a direct
/// conversation, for what the other side wrote itself and lost. A changed identity gets nothing until it is accepted.
pub(super) fn answer_resend(cx: &mut Cx<'_>, c: &Conversation, asker: &Leaf, r: &ResendRequest) -> EngineResult<()> {
    let own = cx.own()?;
    let known = if asker.user == own.user {
        own.identity.as_ref().is_some_and(|i| i.public() == asker.identity_key)
    } else {
        let fine =
            |k: &sc_store::model::Contact| k.changed != sc_store::model::IdentityChange::Blocking && k.identity_key == asker.identity_key;
        cx.r().contact(asker.user)?.is_some_and(|k| fine(&k))
    };
    if !known {
        return Ok(());
    }
    for seq in &r.seqs {
        let resent = match cx.r().message_at(c.id, *seq)? {
            Some((m, _)) if m.kind == RowKind::Text => {
                let entitled =
                    m.sender == own.user || asker.user == own.user || (m.sender == asker.user && c.kind == ConversationKind::Direct);
                if !entitled || cx.now - m.sent_at > RESEND_AGE_MS || cx.r().added_after(c.id, asker.user, *seq)? {
                    continue;
                }
                let content = Content::Text(Text { body: m.body, reply_to: m.reply_to });
                let message = Message { temp_id: m.temp_id, n: 0, written_at: m.sent_at, content }.encode()?;
                Resent { temp_id: m.temp_id, message }
            }
            None if cx.r().is_silent(c.id, *seq)? => Resent { temp_id: TempId::generate(), message: Vec::new() },
            _ => continue,
        };
        if !cx.w.may_answer(c.id, *seq, asker.device, RESEND_TIMES)? {
            continue;
        }
        // A key nobody can be sealed to is the asker's loss.
        let Ok(answer) = ResendAnswer::seal(*seq, &resent, &r.key, &mut rand::rngs::OsRng) else { return Ok(()) };
        crate::core::outbox::queue_silent(cx, c.id, Content::ResendAnswer(answer))?;
    }
    Ok(())
}

/// A message that was asked for.
pub(super) fn resent(cx: &mut Cx<'_>, c: &Conversation, sender: &Leaf, a: &ResendAnswer) -> EngineResult<()> {
    let own = cx.own()?;
    let Ok(resent) = a.open(&own.device) else { return Ok(()) };
    let Some((row, _)) = cx.r().message_at(c.id, a.seq)?.filter(|(m, _)| m.kind == RowKind::Undecryptable) else { return Ok(()) };
    // Only the author or an own device may say what it was; for what this very device wrote and lost, the other side of a
    // direct conversation.
    let lost_here = row.cause == "restored_copy" && c.kind == ConversationKind::Direct;
    if sender.user != row.sender && sender.user != own.user && !lost_here {
        return Ok(());
    }
    if resent.message.is_empty() {
        cx.w.delete_row(row.id)?;
    } else {
        let Ok(Message { content: Content::Text(t), temp_id, .. }) = Message::decode(&resent.message) else { return Ok(()) };
        if cx.r().message(c.id, temp_id)?.is_some_and(|m| m.id != row.id) {
            cx.w.delete_row(row.id)?;
        } else {
            cx.w.heal(row.id, temp_id, &t.body, t.reply_to, row.sender == own.user, &[])?;
        }
    }
    Ok(cx.w.resend_done(c.id, a.seq)?)
}
