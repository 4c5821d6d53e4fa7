//! One batch after the other: transaction, savepoints, checkpoints, and what is done when the store fails.

use super::fan_out::apply;
use super::messages::flush;
use super::{Append, BATCH, CACHE, Effect, Op, TxFn, WriteCx};
use crate::error::{ApiError, ApiResult, storage_failed, sync_failed};
use crate::hub::Hub;
use crate::ops::Metrics;
use crate::{db, now_ms};
use sc_protocol::ErrorCode;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Writes until the last handle is gone.
pub(super) async fn run(mut cx: WriteCx, db: db::Options, mut rx: mpsc::Receiver<Op>, hub: Arc<Hub>, metrics: Arc<Metrics>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut since_checkpoint = 0usize;
    while rx.recv_many(&mut batch, BATCH).await > 0 {
        cx.now = now_ms();
        let size = batch.len();
        let result = transact(&mut cx, &mut batch).await;
        metrics.batch(size, result.is_ok());
        if let Err(e) = &result {
            tracing::error!(cause = %e.0, "a batch was rolled back");
            cx.convs.clear();
        }
        cx.touched.clear();
        let failed = result.is_err();
        apply(&mut cx, &hub, result.err());
        if cx.disk_failed {
            return refuse(rx, batch).await;
        }
        if failed {
            reopen(&mut cx, &db).await;
            metrics.recovered();
        }
        if cx.convs.len() > CACHE {
            cx.convs.clear();
        }
        since_checkpoint += size;
        if since_checkpoint >= 4096 || rx.is_empty() && since_checkpoint >= 512 {
            since_checkpoint = 0;
            checkpoint(&mut cx).await;
            if cx.disk_failed {
                metrics.storage_failed();
                return refuse(rx, batch).await;
            }
        }
    }
    checkpoint(&mut cx).await;
}

/// After a sync has failed nothing is known about what the disk holds: the kernel may have dropped what it could not write
/// and call the next sync good. Nothing more is acknowledged by this process; reads go on, `ready` says it, and the next
/// start brings the log into the file before it serves.
async fn refuse(mut rx: mpsc::Receiver<Op>, mut batch: Vec<Op>) {
    tracing::error!("the disk failed to keep what was written: no more writes are taken. Check the disk, then start the server again.");
    while rx.recv_many(&mut batch, BATCH).await > 0 {
        for op in batch.drain(..) {
            op.refuse(&storage_failed());
        }
    }
}

async fn reopen(cx: &mut WriteCx, db: &db::Options) {
    let mut wait = 50;
    loop {
        match db::open_writer(db).await {
            Ok(conn) => {
                cx.conn = conn;
                return;
            }
            Err(cause) => {
                tracing::error!(%cause, "the store cannot be opened; trying again");
                tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
                wait = (wait * 2).min(5_000);
            }
        }
    }
}

async fn checkpoint(cx: &mut WriteCx) {
    if let Err(cause) = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut cx.conn).await {
        cx.disk_failed |= sync_failed(&cause);
        tracing::warn!(%cause, "checkpoint failed; the log goes on growing until one succeeds");
    }
}

async fn transact(cx: &mut WriteCx, batch: &mut Vec<Op>) -> ApiResult<()> {
    let mut ops = std::mem::take(batch).into_iter();
    let began = sqlx::query("BEGIN IMMEDIATE").execute(&mut cx.conn).await;
    let mut pending: Vec<Append> = Vec::new();
    let mut result = began.map(|_| ()).map_err(ApiError::from);
    while result.is_ok() {
        let Some(op) = ops.next() else { break };
        match op {
            Op::Append(a) => pending.push(a),
            Op::Tx(f, refused) => {
                result = flush(cx, &mut pending).await;
                match result {
                    Ok(()) => result = operate(cx, f, refused).await,
                    Err(ref e) => refused(e.clone()),
                }
            }
        }
    }
    if result.is_ok() {
        result = flush(cx, &mut pending).await;
    }
    if result.is_ok() {
        result = sqlx::query("COMMIT").execute(&mut cx.conn).await.map(|_| ()).map_err(|cause| {
            cx.disk_failed |= sync_failed(&cause);
            ApiError::from(cause)
        });
    }
    if let Err(e) = &result {
        pending.into_iter().map(Op::Append).chain(ops).for_each(|op| op.refuse(e));
    }
    *batch = Vec::with_capacity(BATCH);
    result
}

/// One operation between savepoints. An error of the operation is its own; an error of the savepoints is the batch's.
async fn operate(cx: &mut WriteCx, f: TxFn, refused: Box<dyn FnOnce(ApiError) + Send>) -> ApiResult<()> {
    let before = std::mem::take(&mut cx.touched);
    let effects = cx.effects.len();
    if let Err(e) = sqlx::query("SAVEPOINT op").execute(&mut cx.conn).await {
        let e = ApiError::from(e);
        refused(e.clone());
        return Err(e);
    }
    match f(cx).await {
        Ok(done) => {
            cx.effects.push(Effect::Done(done, Ok(())));
        }
        Err(e) => {
            // Full or failing storage has ended the whole transaction: say so to the batch.
            if e.0.code == ErrorCode::StorageFull {
                refused(e.clone());
                return Err(e);
            }
            cx.effects.truncate(effects);
            cx.forget();
            // Told after the commit: it may speak of what this batch stored.
            cx.effects.push(Effect::Refused(refused, e));
            sqlx::query("ROLLBACK TO op").execute(&mut cx.conn).await?;
        }
    }
    cx.touched.extend(before);
    sqlx::query("RELEASE op").execute(&mut cx.conn).await?;
    Ok(())
}
