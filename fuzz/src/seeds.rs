//! Seeds: what our own encoders make, one folder a target. A fuzzer that begins with nothing finds the first byte.

use super::{fixture, with_group};
use sc_e2ee::content::{Content, Message, ResendRequest, Text};
use sc_e2ee::group::key_package;
use sc_e2ee::identity::AccountIdentity;
use sc_e2ee::reset::Announcement;
use sc_protocol::frame::{ClientFrame, Cursor, Encoding, Envelope, EnvelopeKind, ServerFrame};
use sc_protocol::identity::DeviceList;
use sc_protocol::rest::{EnvelopePage, PostCommit, SendMessage};
use sc_protocol::{Blob, ConversationId, DeviceId, TempId, UserId, suite};
use std::error::Error;
use std::path::Path;

struct Folder<'a>(&'a Path);

impl Folder<'_> {
    fn put(&self, target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let dir = self.0.join(target);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(name), bytes)
    }
}

fn envelope() -> Envelope {
    Envelope {
        conversation_id: ConversationId::generate(),
        seq: 7,
        kind: EnvelopeKind::Application,
        generation: 0,
        epoch: 3,
        sender_user: UserId::generate(),
        sender_device: DeviceId::generate(),
        temp_id: TempId::generate(),
        sent_at: 1_800_000_000_000,
        payload: Blob::from(vec![1, 2, 3]),
        ratchet_tree: None,
    }
}

fn frames(out: &Folder<'_>) -> Result<(), Box<dyn Error>> {
    let message = SendMessage {
        conversation_id: ConversationId::generate(),
        temp_id: TempId::generate(),
        epoch: 1,
        generation: 0,
        payload: Blob::from(vec![9; 40]),
    };
    let cursors = vec![Cursor { conversation_id: ConversationId::generate(), seq: 4 }];
    let client = [
        ClientFrame::SendMessage { request_id: 1, message: message.clone() },
        ClientFrame::Sync { cursors, done: true },
        ClientFrame::MarkAsRead { request_id: 2, conversation_id: ConversationId::generate(), seq: 9 },
        ClientFrame::Ping { request_id: 3 },
    ];
    let server = [ServerFrame::NewMessage(envelope()), ServerFrame::CaughtUp {}, ServerFrame::KeyPackagesLow { suite: 1, remaining: 2 }];
    for (name, encoding) in [("frame_json", Encoding::Json), ("frame_msgpack", Encoding::MsgPack)] {
        for (i, f) in client.iter().enumerate() {
            out.put(name, &format!("client-{i}"), &encoding.encode(f)?)?;
        }
        for (i, f) in server.iter().enumerate() {
            out.put(name, &format!("server-{i}"), &encoding.encode(f)?)?;
        }
    }
    out.put("frame_json", "deep", &[b'['; 2_000])?;
    out.put("frame_msgpack", "deep", &[0x91; 2_000])?;
    out.put("rest", "send", &serde_json::to_vec(&message)?)?;
    out.put("rest", "page", &serde_json::to_vec(&EnvelopePage { envelopes: vec![envelope()], last_seq: 7 })?)?;
    Ok(())
}

fn identities(out: &Folder<'_>) -> Result<(), Box<dyn Error>> {
    let x = fixture();
    let identity = AccountIdentity::from_seed(&[3; 32]);
    let list = DeviceList { user_id: x.user, version: 2, devices: vec![(x.device.device_id, x.device.public())] };
    out.put("identity", "list", &identity.sign_list(&list))?;
    out.put("identity", "certificate", &identity.certify(x.user, x.device.device_id, &x.device.public()).to_bytes())?;
    let reset = Announcement {
        conversation_id: ConversationId::generate(),
        generation: 1,
        old_epoch: 5,
        suite: suite::CLASSIC,
        user_id: x.user,
        device_id: x.device.device_id,
    };
    out.put("identity", "reset", &reset.sign(&x.device)?)?;
    let sealed = sc_e2ee::sealed::seal(&sc_e2ee::sealed::public(&[5; 32]), b"fuzz", b"secret", &mut rand::rngs::OsRng)?;
    out.put("sealed", "sealed", &sealed)?;
    let contents = [
        Content::Text(Text { body: "chào bạn".into(), reply_to: Some(TempId::generate()) }),
        Content::Title("nhóm".into()),
        Content::ResendRequest(ResendRequest { seqs: vec![1, 2, 3], key: vec![7; 32] }),
        Content::SessionRefreshed,
        Content::RoomOpened,
    ];
    for (i, content) in contents.into_iter().enumerate() {
        let m = Message { temp_id: TempId::generate(), n: 4, written_at: 1_800_000_000_000, content };
        out.put("content", &format!("plain-{i}"), &m.encode()?)?;
        out.put("content", &format!("padded-{i}"), &m.encode_padded()?)?;
    }
    Ok(())
}

fn groups(out: &Folder<'_>) -> Result<(), Box<dyn Error>> {
    let mut result: Result<(), Box<dyn Error>> = Ok(());
    with_group(|g, cx, new, _| {
        result = (|| {
            out.put("key_package", "package", &key_package(cx, suite::CLASSIC, true)?)?;
            out.put("welcome", "public", &[new.group_info.as_slice(), new.ratchet_tree.as_slice()].concat())?;
            out.put("server_group", "public", &[new.group_info.as_slice(), new.ratchet_tree.as_slice()].concat())?;
            out.put("group_message", "message", &g.encrypt(cx, b"hello")?)?;
            let sent = g.commit(cx, Vec::new(), &[])?;
            out.put("group_message", "commit", &sent.commit)?;
            out.put("server_group", "commit", &[sent.commit.as_slice(), &sent.group_info].concat())?;
            let post = PostCommit {
                temp_id: TempId::generate(),
                generation: 0,
                epoch: 0,
                commit: Blob::from(sent.commit),
                welcome: None,
                group_info: Blob::from(sent.group_info),
                add_users: vec![UserId::generate()],
                remove_users: Vec::new(),
            };
            out.put("rest", "commit", &serde_json::to_vec(&post)?)?;
            Ok(())
        })();
    });
    result
}

/// Writes all of them.
pub fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    let out = Folder(folder);
    frames(&out)?;
    identities(&out)?;
    for (i, (target, bytes)) in crate::calls::samples().into_iter().chain(crate::rooms::samples()).enumerate() {
        out.put(target, &i.to_string(), &bytes)?;
    }
    groups(&out)
}
