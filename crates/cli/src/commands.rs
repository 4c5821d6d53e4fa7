//! The commands, each a few calls of the app.

mod calls;
mod rooms;

use crate::args::{Args, Cmd, GroupCmd, KindArg, MemberRole, ScopeArg};
use crate::output::{ask_secret, confirm, message, print};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sc_app::command::Command;
use sc_app::view::Phase;
use sc_app::{App, AppError};
use sc_engine::{Engine, EngineError, ResetScope};
use sc_protocol::rest::{ConversationKind, Role};
use sc_protocol::{ConversationId, DeviceId, TempId, UserId};
use sc_store::model::{Conversation, ListEntry, MessageRow, RowKind, Status, System};
use sc_store::search::SearchFilter;
use serde_json::json;
use std::time::Duration;

/// How long commands wait for the server.
const PATIENCE: Duration = Duration::from_secs(30);
const LISTENED: &str = "cli_listened";

struct Cli<'a> {
    app: &'a App,
    json: bool,
}

/// Runs one command.
pub async fn run(app: &App, args: Args) -> Result<(), AppError> {
    match app.state().phase {
        Phase::KeyLost => {
            return Err(AppError::new(
                "WRONG_KEY",
                "The store is there, but its key is not. Restore the key file or keyring, or use another profile.",
            ));
        }
        Phase::KeyringSilent => {
            return Err(AppError::new(
                "LOCKED",
                "The key of this profile is in the system's keyring, which does not answer. Unlock it, unset SECURECONNECT_PASSPHRASE, and try again.",
            ));
        }
        Phase::Locked | Phase::ChoosePassphrase => return Err(AppError::new("WRONG_KEY", "The passphrase does not open this profile.")),
        _ => {}
    }
    let cli = Cli { app, json: args.json };
    match args.command {
        Cmd::Register { user } => cli.register(&args.server, user).await,
        Cmd::Login { user, wait } => cli.login(&args.server, user, wait).await,
        Cmd::Whoami => cli.whoami(),
        other => {
            if app.state().phase == Phase::Welcome {
                return Err(AppError::new("UNAUTHENTICATED", "This profile has no account. Use `register` or `login` first."));
            }
            cli.logged_in(other).await
        }
    }
}

fn password() -> Result<String, AppError> {
    match std::env::var("SECURECONNECT_PASSWORD") {
        Ok(p) if !p.is_empty() => Ok(p),
        _ => ask_secret("Password: "),
    }
}

impl Cli<'_> {
    fn engine(&self) -> Result<Engine, AppError> {
        self.app.engine()
    }

    async fn register(&self, server: &str, user: String) -> Result<(), AppError> {
        self.app.call(Command::Register { server: server.to_owned(), username: user, password: password()? }).await?;
        self.engine()?.settle(PATIENCE).await?;
        self.whoami()
    }

    async fn login(&self, server: &str, user: String, wait: u64) -> Result<(), AppError> {
        self.app.call(Command::Login { server: server.to_owned(), username: user, password: password()? }).await?;
        let state = self.app.state();
        if state.phase != Phase::Waiting {
            return self.whoami();
        }
        let device = self.engine()?.account().map(|a| a.device.device_id.to_string()).unwrap_or_default();
        let code = state.code.unwrap_or_default();
        print(self.json, &json!({ "pending": true, "device": device, "code": code }), || {
            format!("This device waits for approval. On another device of yours:\n  approve {device} {code}")
        });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(wait);
        while tokio::time::Instant::now() < deadline {
            if self.engine()?.poll_link().await? {
                self.engine()?.settle(PATIENCE).await?;
                return self.whoami();
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    fn whoami(&self) -> Result<(), AppError> {
        let s = self.app.state();
        let Some(username) = s.username.clone() else { return Err(AppError::new("UNAUTHENTICATED", "This profile has no account.")) };
        let device = self.engine()?.account().map(|a| a.device.device_id);
        let v = json!({ "username": username, "user_id": s.user_id, "device_id": device, "server": s.server, "pending": s.phase == Phase::Waiting });
        print(self.json, &v, || format!("{username} at {}", s.server.unwrap_or_default()));
        Ok(())
    }

    async fn logged_in(&self, command: Cmd) -> Result<(), AppError> {
        match command {
            Cmd::Conversations { unread, kind } => self.conversations(unread, kind).await,
            Cmd::Group { command } => self.group(command).await,
            Cmd::Send { to, text, wait, reply_to } => self.send(&to, &text, wait, reply_to).await,
            Cmd::Listen { count, timeout } => self.listen(count, timeout).await,
            Cmd::History { conversation, limit, before } => self.history(&conversation, limit, before).await,
            Cmd::Search { query } => self.search(&query).await,
            Cmd::SafetyNumber { user } => self.safety_number(&user).await,
            Cmd::Verify { user, qr } => self.verify(&user, qr.as_deref()).await,
            Cmd::AcceptIdentity { user } => {
                let c = self.engine()?.find_user(&user).await?;
                self.engine()?.accept_identity(c.user_id).await?;
                self.safety_number(&user).await
            }
            Cmd::ResetSession { conversation, scope, yes } => self.reset(&conversation, scope, yes).await,
            Cmd::Call { user, media } => self.call(&user, &media).await,
            Cmd::Answer { timeout, decline, media } => self.answer(timeout, decline, &media).await,
            Cmd::Room { command } => self.rooms(command).await,
            Cmd::AudioDevices => self.audio_devices().await,
            Cmd::Screens => self.screens().await,
            Cmd::Sync => self.sync().await,
            Cmd::Devices => self.devices().await,
            Cmd::Approve { device, code } => {
                let device: DeviceId = device.parse().map_err(|_| AppError::new("BAD_ID", "The device id is malformed."))?;
                self.engine()?.approve_device(device, &code).await?;
                self.devices().await
            }
            Cmd::Revoke { device } => {
                let device: DeviceId = device.parse().map_err(|_| AppError::new("BAD_ID", "The device id is malformed."))?;
                self.engine()?.revoke_device(device).await?;
                self.devices().await
            }
            Cmd::Register { .. } | Cmd::Login { .. } | Cmd::Whoami => Ok(()),
        }
    }

    /// Catches up when the server can be reached; reading works without it.
    async fn refresh(&self) -> Result<(), AppError> {
        match self.engine()?.settle(Duration::from_secs(5)).await {
            Ok(()) | Err(EngineError::Offline(_)) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// A conversation by id or by the name of the other person.
    async fn resolve(&self, to: &str) -> Result<ConversationId, AppError> {
        let engine = self.engine()?;
        if let Ok(id) = to.parse::<ConversationId>() {
            if engine.read(|r| r.conversation(id))?.is_none() {
                self.refresh().await?;
            }
            return engine
                .read(|r| r.conversation(id))?
                .map(|c| c.id)
                .ok_or_else(|| AppError::new("NOT_FOUND", "There is no such conversation."));
        }
        let contact = engine.find_user(to).await?;
        // The other side may have started it.
        if engine.read(|r| r.direct_with(contact.user_id))?.is_none() {
            self.refresh().await?;
        }
        Ok(engine.direct(contact.user_id).await?)
    }

    async fn name(&self, user: UserId) -> Result<String, AppError> {
        let engine = self.engine()?;
        // System lines are nobody's.
        if user.0.is_nil() {
            return Ok(String::new());
        }
        if engine.own_user()? == user {
            return Ok(self.app.state().username.unwrap_or_default());
        }
        match engine.name_of(user).await {
            Ok(name) => Ok(name),
            Err(EngineError::Offline(_)) => Ok(user.to_string()),
            Err(e) => Err(e.into()),
        }
    }

    async fn conversations(&self, unread: bool, kind: Option<KindArg>) -> Result<(), AppError> {
        self.refresh().await?;
        let engine = self.engine()?;
        let wanted = |e: &ListEntry| match kind {
            None => true,
            Some(KindArg::Direct) => e.conversation.kind == ConversationKind::Direct,
            Some(KindArg::Group) => e.conversation.kind == ConversationKind::Group,
        };
        for e in engine.read(|r| r.list(10_000))?.into_iter().filter(|e| wanted(e) && (!unread || e.unread > 0)) {
            let title = self.title(&e.conversation).await?;
            let members: Vec<String> = e.conversation.roster.iter().map(|m| m.username.clone()).collect();
            let v = json!({
                "id": e.conversation.id, "kind": e.conversation.kind, "title": title, "members": members, "unread": e.unread,
                "state": sc_app::view::state_name(e.conversation.state), "last_seq": e.conversation.last_seq, "last_activity": e.conversation.last_activity,
            });
            print(self.json, &v, || format!("{}  {title}  ({} unread)", e.conversation.id, e.unread));
        }
        Ok(())
    }

    async fn title(&self, c: &Conversation) -> Result<String, AppError> {
        match c.peer {
            Some(p) => self.name(p).await,
            None => Ok(c.title.clone()),
        }
    }

    async fn group(&self, command: GroupCmd) -> Result<(), AppError> {
        let engine = self.engine()?;
        let parse = |s: &str| s.parse::<ConversationId>().map_err(|_| AppError::new("BAD_ID", "The id of the group is malformed."));
        let id = match command {
            GroupCmd::Create { title, users } => {
                let mut members = Vec::new();
                for u in users {
                    members.push(engine.find_user(&u).await?.user_id);
                }
                engine.create_group(&title, members).await?
            }
            GroupCmd::Add { conversation, user } => {
                let id = parse(&conversation)?;
                self.refresh().await?;
                let user = engine.find_user(&user).await?.user_id;
                engine.add_members(id, vec![user]).await?;
                id
            }
            GroupCmd::Remove { conversation, user } => {
                let id = parse(&conversation)?;
                self.refresh().await?;
                let user = engine.find_user(&user).await?.user_id;
                engine.remove_members(id, vec![user]).await?;
                id
            }
            GroupCmd::Role { conversation, user, role } => {
                let id = parse(&conversation)?;
                let user = engine.find_user(&user).await?.user_id;
                let role = match role {
                    MemberRole::Owner => Role::Owner,
                    MemberRole::Admin => Role::Admin,
                    MemberRole::Member => Role::Member,
                };
                engine.set_role(id, user, role).await?;
                id
            }
            GroupCmd::Leave { conversation } => {
                let id = parse(&conversation)?;
                engine.leave(id).await?;
                id
            }
        };
        engine.settle(PATIENCE).await?;
        // A job that was refused left a line that says why.
        let last = engine.read(|r| r.rows_before(id, 1 << 61, 1))?.pop().filter(|m| m.kind == RowKind::System);
        match last.and_then(|m| serde_json::from_str::<System>(&m.body).ok()) {
            Some(System::Refused { reason }) => return Err(AppError::new(&reason, "The server refused the change.")),
            Some(System::NotAdded { .. }) => {
                return Err(AppError::new("NO_KEY_PACKAGE", "Somebody has no device that can be added yet; the others were added."));
            }
            _ => {}
        }
        let c = engine.read(|r| r.conversation(id))?.ok_or_else(|| AppError::new("NOT_FOUND", "The group is gone."))?;
        let members: Vec<String> = c.roster.iter().map(|m| m.username.clone()).collect();
        print(self.json, &json!({ "conversation": id, "title": c.title, "members": members }), || {
            format!("{id}  {}: {}", c.title, members.join(", "))
        });
        Ok(())
    }

    async fn send(&self, to: &str, text: &str, wait: bool, reply_to: Option<String>) -> Result<(), AppError> {
        let engine = self.engine()?;
        sc_engine::core::outbox::check_text(text)?;
        let reply_to =
            reply_to.map(|r| r.parse::<TempId>().map_err(|_| AppError::new("BAD_ID", "The temp_id is malformed."))).transpose()?;
        let id = self.resolve(to).await?;
        let row = engine.send_text(id, text, reply_to).await?;
        let patience = if wait { PATIENCE } else { Duration::from_secs(3) };
        let m = self.until_sent(&engine, row, patience).await?;
        match m.status {
            Status::Failed => Err(AppError::new(&m.cause, "The message could not be sent. It is kept and can be sent again.")),
            Status::Pending if wait => Err(AppError::new(
                "OFFLINE",
                "The server has not acknowledged the message yet. It is kept and goes out with the next command.",
            )),
            _ => {
                print(self.json, &json!({ "temp_id": m.temp_id, "seq": m.seq, "conversation": m.conversation }), || {
                    m.seq.map_or_else(|| "kept; it goes out with the next command".to_owned(), |s| format!("sent ({s})"))
                });
                Ok(())
            }
        }
    }

    /// The row once it is sent or failed, or as it is when patience ends. Its conversation may have moved.
    async fn until_sent(&self, engine: &Engine, row: MessageRow, patience: Duration) -> Result<MessageRow, AppError> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut events = engine.events();
        loop {
            let m = engine.read(|r| r.row(row.id))?.unwrap_or_else(|| row.clone());
            if m.status != Status::Pending || tokio::time::timeout_at(deadline, events.recv()).await.is_err() {
                return Ok(m);
            }
        }
    }

    async fn listen(&self, count: Option<usize>, timeout: Option<u64>) -> Result<(), AppError> {
        let engine = self.engine()?;
        let device = engine.account().map(|a| a.device.device_id);
        let deadline = timeout.map(|s| tokio::time::Instant::now() + Duration::from_secs(s));
        let mut events = engine.events();
        let mut printed = 0;
        loop {
            let seen = engine.read(|r| r.meta(LISTENED))?.and_then(|b| b.try_into().ok().map(i64::from_be_bytes)).unwrap_or(0);
            for m in engine.read(|r| r.rows_after_id(seen, 500))? {
                let own = Some(m.sender_device) == device;
                if !own && m.kind != RowKind::System {
                    let sender = self.name(m.sender).await?;
                    print(self.json, &message(&m, &sender), || format!("{sender}: {}", m.body));
                    printed += 1;
                }
                let id = m.id;
                engine.db().write(move |cx| Ok(cx.w.set_meta(LISTENED, &id.to_be_bytes())?)).await?;
                if count.is_some_and(|n| printed >= n) {
                    return Ok(());
                }
            }
            let wait = deadline.unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(3600));
            if tokio::time::timeout_at(wait, events.recv()).await.is_err() && deadline.is_some() {
                return if count.is_some_and(|n| printed < n) {
                    Err(AppError::new("TIMEOUT", "Fewer messages came than were waited for."))
                } else {
                    Ok(())
                };
            }
        }
    }

    async fn history(&self, conversation: &str, limit: u32, before: Option<u64>) -> Result<(), AppError> {
        self.refresh().await?;
        let id = self.resolve(conversation).await?;
        let pos = before.map_or(i64::MAX, |s| i64::try_from(s).unwrap_or(i64::MAX >> 20) << 20);
        for m in self.engine()?.read(|r| r.rows_before(id, pos, limit.clamp(1, 10_000)))? {
            let sender = self.name(m.sender).await?;
            print(self.json, &message(&m, &sender), || {
                format!("{:>6}  {sender}: {}", m.seq.map(|s| s.to_string()).unwrap_or_default(), m.body)
            });
        }
        Ok(())
    }

    async fn search(&self, query: &str) -> Result<(), AppError> {
        for m in self.engine()?.read(|r| r.search(query, &SearchFilter::default(), 100))? {
            let sender = self.name(m.sender).await?;
            print(self.json, &message(&m, &sender), || format!("{}  {sender}: {}", m.conversation, m.body));
        }
        Ok(())
    }

    async fn verify(&self, user: &str, qr: Option<&str>) -> Result<(), AppError> {
        let engine = self.engine()?;
        let c = engine.find_user(user).await?;
        let number = engine.safety_number(c.user_id)?;
        if let Some(qr) = qr {
            let code = STANDARD.decode(qr.trim()).map_err(|_| AppError::new("BAD_REQUEST", "The code is not base64."))?;
            let same = number.matches_qr(&code).map_err(|_| AppError::new("BAD_REQUEST", "This is not the code of a safety number."))?;
            if !same {
                return Err(AppError::new(
                    "IDENTITY_MISMATCH",
                    format!("The codes differ: this may not be {user}. Nothing was marked; compare with {user} in person."),
                ));
            }
        }
        engine.set_verified(c.user_id, true, &number.digits()).await?;
        self.safety_number(user).await
    }

    async fn safety_number(&self, user: &str) -> Result<(), AppError> {
        let engine = self.engine()?;
        let c = engine.find_user(user).await?;
        let number = engine.safety_number(c.user_id)?;
        let digits = number.digits();
        let v = json!({ "number": digits, "qr": STANDARD.encode(number.qr()), "verified": c.verified });
        print(self.json, &v, || {
            let groups: Vec<String> = digits.chars().collect::<Vec<_>>().chunks(5).map(|c| c.iter().collect()).collect();
            format!("{}{}", groups.join(" "), if c.verified { "  (verified)" } else { "" })
        });
        Ok(())
    }

    async fn reset(&self, conversation: &str, scope: ScopeArg, yes: bool) -> Result<(), AppError> {
        let engine = self.engine()?;
        let scope = match scope {
            ScopeArg::Device => ResetScope::Device,
            ScopeArg::Conversation => ResetScope::Conversation,
            ScopeArg::Identity => ResetScope::Identity,
        };
        self.refresh().await?;
        let id = self.resolve(conversation).await?;
        let preview = engine.preview_reset(Some(id), scope)?;
        let v = json!({ "preview": preview });
        print(self.json, &v, || {
            let safety = if preview.safety_numbers_change { "Safety numbers change for everybody. " } else { "Safety numbers stay. " };
            let names: Vec<&str> = preview.newcomers.iter().map(|(_, n)| n.as_str()).collect();
            let newcomers = match names.as_slice() {
                [] => String::new(),
                names => {
                    format!(" {} came in while this device could not follow and will read what is written from now on.", names.join(", "))
                }
            };
            format!(
                "Touches {} conversation(s) with {} other(s). {safety}Your history stays readable. {} unreadable message(s) will be asked for again.{newcomers}",
                preview.conversations, preview.people, preview.unreadable
            )
        });
        if !yes && !confirm("Reset the secure session?") {
            return Err(AppError::new("CANCELLED", "Nothing was reset."));
        }
        engine.accept_members(id, preview.newcomers.iter().map(|(u, _)| *u).collect()).await?;
        let secret = if preview.needs_password { Some(password()?) } else { None };
        let report = engine.reset(Some(id).filter(|_| scope != ResetScope::Identity), scope, secret.as_deref(), PATIENCE).await?;
        engine.settle(PATIENCE).await?;
        print(self.json, &json!({ "report": report }), || {
            format!(
                "{} conversation(s) work again, {} still wait. {} message(s) recovered, {} still being asked for.",
                report.repaired, report.waiting, report.recovered, report.requested
            )
        });
        Ok(())
    }

    async fn sync(&self) -> Result<(), AppError> {
        let engine = self.engine()?;
        if self.app.state().phase == Phase::Waiting && !engine.poll_link().await? {
            return Err(AppError::new("DEVICE_NOT_LINKED", "This device waits for approval by another one."));
        }
        engine.settle(PATIENCE).await?;
        let (conversations, messages, waiting) = engine.read(|r| Ok((r.conversations()?.len(), r.message_count()?, r.outbox_len()?)))?;
        print(self.json, &json!({ "conversations": conversations, "messages": messages, "outbox": waiting }), || {
            format!("up to date: {conversations} conversations, {messages} rows")
        });
        Ok(())
    }

    async fn devices(&self) -> Result<(), AppError> {
        let engine = self.engine()?;
        for d in engine.devices().await? {
            let code = if d.pending { engine.code_of(&d)? } else { String::new() };
            let v = json!({ "device": d.device_id, "name": d.name, "pending": d.pending, "code": code, "last_seen": d.last_seen });
            print(self.json, &v, || {
                format!(
                    "{}  {}{}",
                    d.device_id,
                    d.name,
                    if d.pending { format!("  waits for approval, code {code}") } else { String::new() }
                )
            });
        }
        Ok(())
    }
}
