//! How results are printed, and how secrets are asked for.

use sc_app::AppError;
use sc_store::model::{MessageRow, RowKind, Status};
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};

/// A message as one JSON object.
pub fn message(m: &MessageRow, sender: &str) -> Value {
    let kind = match m.kind {
        RowKind::Text => "text",
        RowKind::System => "system",
        RowKind::Undecryptable => "undecryptable",
        RowKind::Unknown => "unknown",
    };
    let status = match m.status {
        Status::Pending => "pending",
        Status::Sent => "sent",
        Status::Failed => "failed",
        Status::Received => "received",
    };
    let mut v = json!({
        "conversation": m.conversation, "seq": m.seq, "temp_id": m.temp_id, "sender": sender, "kind": kind,
        "text": m.body, "sent_at": m.sent_at, "status": status,
    });
    if let Some(o) = v.as_object_mut() {
        if m.kind == RowKind::System {
            o.insert("text".into(), Value::String(String::new()));
            o.insert("system".into(), serde_json::from_str(&m.body).unwrap_or(Value::Null));
        }
        if !m.cause.is_empty() {
            o.insert("cause".into(), Value::String(m.cause.clone()));
        }
        if let Some(r) = m.reply_to {
            o.insert("reply_to".into(), json!(r));
        }
    }
    v
}

/// Prints one result.
pub fn print(json: bool, value: &Value, text: impl FnOnce() -> String) {
    let line = if json { value.to_string() } else { text() };
    let mut out = std::io::stdout().lock();
    // A reader that went away (`| head`) is no fault.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Asks for a secret without showing it.
pub fn ask_secret(prompt: &str) -> Result<String, AppError> {
    if !std::io::stdin().is_terminal() {
        return Err(AppError::new(
            "LOCKED",
            "A secret is needed and there is no terminal to ask for it. Set SECURECONNECT_PASSPHRASE (profile) and SECURECONNECT_PASSWORD (account).",
        ));
    }
    rpassword::prompt_password(prompt).map_err(|e| AppError::new("LOCKED", e.to_string()))
}

/// Asks yes or no.
pub fn confirm(question: &str) -> bool {
    eprint!("{question} [y/N] ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}
