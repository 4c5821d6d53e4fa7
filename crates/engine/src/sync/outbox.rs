//! The outbox out: one job at a time per conversation, in the order of writing.

use super::Shared;
use crate::engine::{ConnectionState, Event};
use crate::jobs::{self, Outcome};
use crate::{EngineResult, now_ms};
use sc_store::model::Job;
use std::sync::Arc;
use std::time::Duration;

/// The outbox's task.
pub async fn run_outbox(s: Arc<Shared>) {
    // Cutting a job off anywhere is what a crash would do: it is safe.
    tokio::select! {
        () = turns(&s) => {}
        () = s.stopped() => {}
    }
}

async fn turns(s: &Arc<Shared>) {
    let mut events = s.events.subscribe();
    let mut state = s.state.subscribe();
    loop {
        if *state.borrow_and_update() == ConnectionState::Online {
            match turn(s).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(cause) => {
                    tracing::info!(%cause, "the outbox waits");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            if let Err(cause) = jobs::ask_again(s).await {
                tracing::info!(%cause, "nothing was asked for again");
            }
        }
        let next = s.read(|r, ()| r.next_job_at(), ()).await.ok().flatten();
        let wait = next.map_or(5_000, |at| (at - now_ms()).clamp(20, 5_000));
        let woken = async {
            loop {
                match events.recv().await {
                    Ok(Event::Outbox) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        tokio::select! {
            () = woken => {}
            _ = state.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(u64::try_from(wait).unwrap_or(1_000))) => {}
        }
    }
}

/// One job of every conversation. True when there may be more to do at once.
async fn turn(s: &Arc<Shared>) -> EngineResult<bool> {
    let jobs = s.read(|r, ()| r.first_jobs(now_ms()), ()).await?;
    if jobs.is_empty() {
        return Ok(false);
    }
    let mut more = false;
    for chunk in jobs.chunks(16) {
        let results = futures_util::future::join_all(chunk.iter().map(|j| run_one(s, j.clone()))).await;
        more |= results.into_iter().any(|r| r);
    }
    Ok(more)
}

async fn run_one(s: &Arc<Shared>, job: Job) -> bool {
    let (id, attempts, job_kind, temp_id) = (job.id, job.attempts, job.kind.clone(), job.temp_id);
    tracing::debug!(kind = job_kind, conversation = %job.conversation, "job");
    match jobs::run(s, job).await {
        Ok(Outcome::Again) => true,
        Ok(Outcome::Done) => {
            // Done, but its place has not come: wait for it instead of asking again at once.
            let still = s.read(move |r, ()| r.job_by_temp_id(temp_id), ()).await.ok().flatten().is_some();
            if still && let Err(cause) = s.db.write(move |cx| Ok(cx.w.delay_job(id, cx.now + 1_000)?)).await {
                tracing::warn!(%cause, "a job could not be put off");
            }
            true
        }
        Ok(Outcome::Wait) => {
            // Something else of the conversation comes first; it was queued before this job or is on its way.
            let first = s.read(move |r, ()| Ok(r.job(id)?.is_some_and(|j| j.not_before <= now_ms())), ()).await.unwrap_or(false);
            if first {
                let put_off = move |cx: &mut crate::core::Cx<'_>| {
                    if is_first(cx, id)? {
                        cx.w.delay_job(id, cx.now + 500)?;
                    }
                    Ok(())
                };
                let later = s.db.write(put_off).await;
                if let Err(cause) = later {
                    tracing::warn!(%cause, "a job could not be put off");
                }
            }
            true
        }
        Err(cause) => {
            let wait = 1_000i64.saturating_mul(1 << attempts.min(5)).min(30_000);
            tracing::info!(kind = job_kind, %cause, "a job is put off");
            if let Err(cause) = s.db.write(move |cx| Ok(cx.w.delay_job(id, cx.now + wait)?)).await {
                tracing::warn!(%cause, "a job could not be put off");
            }
            false
        }
    }
}

/// True when no other job of the conversation is before it.
fn is_first(cx: &crate::core::Cx<'_>, id: i64) -> EngineResult<bool> {
    Ok(cx.r().is_first_job(id)?)
}
