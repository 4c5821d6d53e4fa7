//! After the commit: answers and frames, each connection locked and woken once a batch.

use super::{Effect, Reply, WriteCx, sent_frame};
use crate::error::{ApiError, ApiResult};
use crate::hub::{Conn, Hub, SharedFrame};
use sc_protocol::DeviceId;
use sc_protocol::frame::ServerFrame;
use sc_protocol::rest::Appended;
use std::collections::HashMap;
use std::sync::Arc;

/// Answers and fans out what is durable, or answers everything with the failure of the batch.
pub(super) fn apply(cx: &mut WriteCx, hub: &Hub, failure: Option<ApiError>) {
    let effects = std::mem::take(&mut cx.effects);
    if let Some(e) = failure {
        for effect in effects {
            match effect {
                Effect::Answer(reply, _) => answer_append(reply, Err(e.clone())),
                Effect::Done(done, _) => done(Err(e.clone())),
                Effect::Refused(refused, _) => refused(e.clone()),
                _ => {}
            }
        }
        return;
    }
    let mut outbound = Outbound { hub, targets: HashMap::new(), queued: HashMap::new() };
    for effect in effects {
        match effect {
            Effect::Answer(Reply::Frame(conn, request_id), result) => {
                // The device may have reconnected meanwhile: its new connection learns the place too.
                if let (Ok(a), Some(current)) = (&result, hub.device(conn.device))
                    && !Arc::ptr_eq(&current, &conn)
                {
                    outbound.enqueue(&current, SharedFrame::new(sent_frame(0, a)));
                }
                outbound.enqueue(&conn, answer_frame(request_id, result));
            }
            Effect::Answer(reply, result) => answer_append(reply, result),
            Effect::Deliver { frame, audience, sender } => outbound.deliver(frame, audience, sender),
            Effect::ToDevices(frame, devices) => {
                for c in hub.devices(devices.iter()) {
                    outbound.enqueue(&c, frame.clone());
                }
            }
            other => {
                outbound.flush();
                outbound.targets.clear();
                match other {
                    Effect::ToUser(user, frame) => hub.send_user(user, frame),
                    Effect::StopUser(user) => hub.stop_user(user),
                    Effect::StopDevice(device) => hub.stop_device(device),
                    Effect::Done(done, result) => done(result),
                    Effect::Refused(refused, e) => refused(e),
                    _ => {}
                }
            }
        }
    }
    outbound.flush();
}

/// An audience and its connections.
type Targets = (Arc<[DeviceId]>, Arc<Vec<Arc<Conn>>>);

/// Collects a batch's frames per connection, so that each connection is locked and woken once.
struct Outbound<'a> {
    hub: &'a Hub,
    /// By address of the audience, which is kept alive beside it.
    targets: HashMap<usize, Targets>,
    /// By address of the connection: a device may have had another one.
    queued: HashMap<usize, (Arc<Conn>, Vec<Arc<SharedFrame>>)>,
}

impl Outbound<'_> {
    fn enqueue(&mut self, conn: &Arc<Conn>, frame: Arc<SharedFrame>) {
        self.queued.entry(Arc::as_ptr(conn) as usize).or_insert_with(|| (conn.clone(), Vec::new())).1.push(frame);
    }

    fn deliver(&mut self, frame: Arc<SharedFrame>, audience: Arc<[DeviceId]>, sender: DeviceId) {
        let hub = self.hub;
        let key = Arc::as_ptr(&audience).cast::<DeviceId>() as usize;
        let targets = self.targets.entry(key).or_insert_with(|| (audience.clone(), Arc::new(hub.devices(audience.iter())))).1.clone();
        for c in targets.iter().filter(|c| c.device != sender) {
            self.enqueue(c, frame.clone());
        }
    }

    fn flush(&mut self) {
        for (_, (conn, frames)) in self.queued.drain() {
            conn.push(&frames);
        }
    }
}

fn answer_frame(request_id: u64, result: ApiResult<Appended>) -> Arc<SharedFrame> {
    SharedFrame::new(match result {
        Ok(a) => sent_frame(request_id, &a),
        Err(e) => ServerFrame::Error { request_id, temp_id: None, error: *e.0 },
    })
}

pub(super) fn answer_append(reply: Reply, result: ApiResult<Appended>) {
    match reply {
        Reply::Frame(conn, request_id) => conn.push(&[answer_frame(request_id, result)]),
        // A caller that stopped waiting does not want the answer.
        Reply::Task(tx) => drop(tx.send(result)),
    }
}
