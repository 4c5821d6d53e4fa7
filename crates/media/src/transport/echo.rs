//! Back to oneself after a moment: the test call. Everything but the network is as in a call.

use super::peer::OnEvent;
use super::{Carrier, PathKind, PathStats, TransportEvent};
use crate::voice::Packet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So much later one hears oneself.
pub const LATER: Duration = Duration::from_secs(2);

/// Gives back what it is sent.
pub struct Echo {
    on_event: OnEvent,
    bytes: AtomicU64,
}

impl Echo {
    /// What comes back goes to `on_event`.
    #[must_use]
    pub fn new(on_event: OnEvent) -> Self {
        Self { on_event, bytes: AtomicU64::new(0) }
    }
}

#[async_trait::async_trait]
impl Carrier for Echo {
    async fn send(&self, packet: Packet) {
        self.bytes.fetch_add(packet.payload.len() as u64, Ordering::Relaxed);
        let on_event = self.on_event.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LATER).await;
            on_event(TransportEvent::Voice(packet, Instant::now()));
        });
    }

    async fn stats(&self) -> PathStats {
        let bytes = self.bytes.load(Ordering::Relaxed);
        PathStats { rtt: Some(LATER), sent: bytes, received: bytes, lost: 0.0, kind: PathKind::Direct }
    }

    async fn close(&self) {}
}
