//! Ordinary messages: their place in the log, and what their senders are answered.

use super::rows::{insert_rows, touch_activity};
use super::{Append, Effect, Reply, WriteCx, appended, refusal, sent_frame};
use crate::error::{ApiError, ApiResult, is_unique_violation};
use crate::hub::SharedFrame;
use crate::log::state::ConvState;
use sc_protocol::ErrorCode;
use sc_protocol::frame::{Envelope, EnvelopeKind, ServerFrame};
use sc_protocol::rest::Appended;

/// What became of one waiting message.
enum Placed {
    New(Envelope),
    Again(Appended),
    Refused(ApiError),
}

/// Stores the waiting messages: first all at once, which fails when one of them was stored before; then one by one.
pub(super) async fn flush(cx: &mut WriteCx, pending: &mut Vec<Append>) -> ApiResult<()> {
    if pending.is_empty() {
        return Ok(());
    }
    sqlx::query("SAVEPOINT bulk").execute(&mut cx.conn).await?;
    let mut placed = Vec::with_capacity(pending.len());
    let mut envelopes = Vec::with_capacity(pending.len());
    for a in pending.iter() {
        placed.push(match place(cx, a).await {
            Ok(envelope) => {
                envelopes.push(envelope.clone());
                Placed::New(envelope)
            }
            Err(e) if e.0.code == ErrorCode::StorageFull => return Err(e),
            // A retry of a message that was stored in an earlier epoch gets the answer it got then.
            Err(e) => cx.earlier(a.device, a.message.temp_id).await?.map_or(Placed::Refused(e), Placed::Again),
        });
    }
    if let Err(e) = insert_rows(&mut cx.conn, &envelopes).await {
        if !is_unique_violation(&e) {
            return Err(e.into());
        }
        sqlx::query("ROLLBACK TO bulk").execute(&mut cx.conn).await?;
        sqlx::query("RELEASE bulk").execute(&mut cx.conn).await?;
        for e in envelopes.iter().rev() {
            if let Some(c) = cx.convs.get_mut(&e.conversation_id) {
                c.last_seq = c.last_seq.min(e.seq - 1);
            }
        }
        // What is not stored yet stays in `pending`: whoever ends the batch answers it.
        pending.reverse();
        while let Some(a) = pending.last() {
            let placed = store_one(cx, a).await?;
            if let Some(a) = pending.pop() {
                settle(cx, a, placed);
            }
        }
        return Ok(());
    }
    sqlx::query("RELEASE bulk").execute(&mut cx.conn).await?;
    touch_activity(cx, &envelopes).await?;
    for (a, p) in std::mem::take(pending).into_iter().zip(placed) {
        settle(cx, a, p);
    }
    Ok(())
}

/// Stores one message that was perhaps stored before.
async fn store_one(cx: &mut WriteCx, a: &Append) -> ApiResult<Placed> {
    if let Some(done) = cx.earlier(a.device, a.message.temp_id).await? {
        return Ok(Placed::Again(done));
    }
    match place(cx, a).await {
        Ok(envelope) => {
            insert_rows(&mut cx.conn, std::slice::from_ref(&envelope)).await?;
            touch_activity(cx, std::slice::from_ref(&envelope)).await?;
            Ok(Placed::New(envelope))
        }
        Err(e) if e.0.code == ErrorCode::StorageFull => Err(e),
        Err(e) => Ok(Placed::Refused(e)),
    }
}

/// What a message is answered with, once the batch is durable.
fn settle(cx: &mut WriteCx, a: Append, placed: Placed) {
    match placed {
        Placed::New(envelope) => succeed(cx, a, envelope),
        Placed::Again(done) => cx.effects.push(Effect::Answer(a.reply, Ok(done))),
        Placed::Refused(e) => cx.effects.push(Effect::Answer(a.reply, Err(e))),
    }
}

fn succeed(cx: &mut WriteCx, a: Append, envelope: Envelope) {
    let audience = cx.convs.get_mut(&envelope.conversation_id).map(ConvState::audience).unwrap_or_default();
    let done = appended(&envelope);
    if matches!(a.reply, Reply::Task(_)) {
        let sent = SharedFrame::new(sent_frame(0, &done));
        cx.effects.push(Effect::ToDevices(sent, vec![a.device]));
    }
    cx.effects.push(Effect::Answer(a.reply, Ok(done)));
    let frame = SharedFrame::new(ServerFrame::NewMessage(envelope));
    cx.effects.push(Effect::Deliver { frame, audience, sender: a.device });
}

/// Decides about a message and gives it its place.
async fn place(cx: &mut WriteCx, a: &Append) -> ApiResult<Envelope> {
    let now = cx.now;
    let conv = match cx.conv(a.message.conversation_id).await {
        Ok(c) => c,
        Err(e) if e.0.code == ErrorCode::NotFound => return Err(ApiError::not_a_member()),
        Err(e) => return Err(e),
    };
    conv.admit(a.user, a.device, a.message.generation, a.message.epoch).map_err(refusal)?;
    let m = &a.message;
    Ok(Envelope {
        conversation_id: m.conversation_id,
        seq: conv.assign(),
        kind: EnvelopeKind::Application,
        generation: m.generation,
        epoch: m.epoch,
        sender_user: a.user,
        sender_device: a.device,
        temp_id: m.temp_id,
        sent_at: now,
        payload: m.payload.clone(),
        ratchet_tree: None,
    })
}
