//! All fuzz targets in one program: `sc-fuzz --target=NAME CORPUS [libFuzzer's options]`, `sc-fuzz --seeds=FOLDER`.
//!
//! A target takes bytes as they come from outside and must neither panic nor hang nor take memory without bound.
//! `cargo xtask fuzz [SECONDS]` builds it instrumented, writes seeds with our own encoders and runs every target.
#![no_main]

mod calls;
mod rooms;
mod seeds;

use ed25519_dalek::{Signer as _, SigningKey};
use sc_e2ee::content::Message;
use sc_e2ee::group::{Context, Crypto, Group, verify_key_package};
use sc_e2ee::identity::{AccountIdentity, DeviceKeys};
use sc_e2ee::kv::{KvStorage, ScratchStore};
use sc_protocol::frame::{ClientFrame, Encoding, ServerFrame};
use sc_protocol::identity::{Certificate, DeviceList};
use sc_protocol::rest::{
    ApproveDevice, ConversationPage, CreateConversation, EnvelopePage, LoginFinish, NewGroup, PostCommit, RegisterFinish,
    ResetConversation, ResetIdentity, SendMessage, UploadKeyPackages,
};
use sc_protocol::{ConversationId, DeviceId, UserId, suite};
use secureconnect_server::mls;
use std::sync::OnceLock;

type Target = fn(&[u8]);

const TARGETS: &[(&str, Target)] = &[
    ("frame_json", |d| frame(Encoding::Json, d)),
    ("frame_msgpack", |d| frame(Encoding::MsgPack, d)),
    ("rest", rest),
    ("identity", identity),
    ("content", content),
    ("sealed", sealed),
    ("key_package", key_package),
    ("welcome", welcome),
    ("group_message", group_message),
    ("server_group", server_group),
    ("call_signal", calls::signal),
    ("voice", calls::voice),
    ("turn", calls::turn),
    ("room_unit", rooms::unit),
    ("room_participant", rooms::participant),
    ("room_frames", rooms::frames),
    ("room_video", rooms::video),
];

fn frame(encoding: Encoding, bytes: &[u8]) {
    if let Ok(f) = encoding.decode::<ClientFrame>(bytes) {
        let _ = encoding.encode(&f);
    }
    if let Ok(f) = encoding.decode::<ServerFrame>(bytes) {
        let _ = encoding.encode(&f);
    }
}

fn json<T: serde::de::DeserializeOwned + serde::Serialize>(bytes: &[u8]) {
    if let Ok(v) = serde_json::from_slice::<T>(bytes) {
        let _ = serde_json::to_vec(&v);
    }
}

fn rest(bytes: &[u8]) {
    json::<RegisterFinish>(bytes);
    json::<LoginFinish>(bytes);
    json::<ApproveDevice>(bytes);
    json::<ResetIdentity>(bytes);
    json::<UploadKeyPackages>(bytes);
    json::<CreateConversation>(bytes);
    json::<SendMessage>(bytes);
    json::<PostCommit>(bytes);
    json::<ResetConversation>(bytes);
    json::<EnvelopePage>(bytes);
    json::<ConversationPage>(bytes);
}

/// With a signature that holds, so that what is behind it is reached too.
fn identity(bytes: &[u8]) {
    let key = SigningKey::from_bytes(&[3; 32]);
    let public = key.verifying_key().to_bytes();
    let _ = DeviceList::verify(bytes, &public);
    let _ = Certificate::verify(bytes, &public);
    let _ = Certificate::parse(bytes);
    let _ = sc_e2ee::reset::Announcement::verify(bytes, &public);
    let _ = secureconnect_server::identity::check_list(bytes, &public, UserId::generate(), 0);
    for label in [&b"SecureConnect device list v1"[..], b""] {
        let signature = key.sign(&[label, bytes].concat()).to_bytes();
        let _ = DeviceList::verify(&[bytes, &signature].concat(), &public);
    }
}

fn content(bytes: &[u8]) {
    if let Ok(m) = Message::decode(bytes) {
        let _ = m.encode_padded();
        let _ = m.encode();
    }
    let _ = ScratchStore::from_bytes(bytes);
}

fn sealed(bytes: &[u8]) {
    let _ = sc_e2ee::sealed::open(&[5; 32], b"fuzz", bytes);
}

/// A device that is the same in every run of the program.
struct Fixture {
    crypto: Crypto,
    user: UserId,
    device: DeviceKeys,
    certificate: Vec<u8>,
    server: SigningKey,
}

fn fixture() -> &'static Fixture {
    static F: OnceLock<Fixture> = OnceLock::new();
    F.get_or_init(|| {
        let (user, device) = (UserId::generate(), DeviceKeys::generate(&mut rand::rngs::OsRng));
        let identity = AccountIdentity::generate(&mut rand::rngs::OsRng);
        let certificate = identity.certify(user, device.device_id, &device.public()).to_bytes();
        Fixture { crypto: Crypto::default(), user, device, certificate, server: SigningKey::from_bytes(&[9; 32]) }
    })
}

fn with_group(f: impl FnOnce(&mut Group, &Context<'_, ScratchStore>, NewGroup, ConversationId)) {
    let x = fixture();
    let storage = KvStorage(ScratchStore::default());
    let cx = Context { crypto: &x.crypto, storage: &storage, device: &x.device, certificate: &x.certificate };
    let id = ConversationId::generate();
    let Ok((mut group, public)) = Group::create(&cx, id, 0, suite::CLASSIC, x.server.verifying_key().as_bytes()) else { return };
    let new = NewGroup { group_info: public.group_info.into(), ratchet_tree: public.ratchet_tree.into() };
    f(&mut group, &cx, new, id);
}

fn key_package(bytes: &[u8]) {
    let _ = verify_key_package(&fixture().crypto, suite::CLASSIC, bytes);
    let _ = mls::check_key_package(bytes, mls::Member { user: UserId::generate(), device: DeviceId::generate() });
}

fn welcome(bytes: &[u8]) {
    let x = fixture();
    let storage = KvStorage(ScratchStore::default());
    let cx = Context { crypto: &x.crypto, storage: &storage, device: &x.device, certificate: &x.certificate };
    let (a, b) = bytes.split_at(bytes.len() / 2);
    let _ = Group::join(&cx, bytes, bytes);
    let _ = Group::join(&cx, a, b);
    let public = sc_e2ee::group::PublicState { group_info: a.to_vec(), ratchet_tree: b.to_vec() };
    let _ = Group::rejoin(&x.crypto, &x.device, &x.certificate, &public);
}

fn group_message(bytes: &[u8]) {
    with_group(|g, cx, _, _| {
        let _ = g.receive(cx, bytes, &|_, _| Ok(()));
    });
}

fn server_group(bytes: &[u8]) {
    let x = fixture();
    with_group(|_, _, new, id| {
        let creator = mls::Member { user: x.user, device: x.device.device_id };
        let id = mls::group_id(id, 0);
        if let Ok(mut g) = mls::Group::create(&new, &id, creator, x.server.verifying_key().as_bytes()) {
            let _ = g.commit(bytes, bytes);
            let (a, b) = bytes.split_at(bytes.len() / 2);
            let _ = g.commit(a, b);
        }
        let (a, b) = bytes.split_at(bytes.len() / 2);
        let forged = NewGroup { group_info: a.to_vec().into(), ratchet_tree: b.to_vec().into() };
        let _ = mls::Group::create(&forged, &id, creator, x.server.verifying_key().as_bytes());
        let _ = mls::Group::load(bytes, &id);
    });
}

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn argument(name: &str) -> Option<String> {
    // libFuzzer ignores arguments that begin with two dashes.
    std::env::args().find_map(|a| a.strip_prefix(name).map(str::to_owned))
}

fn choose() -> Target {
    if let Some(folder) = argument("--seeds=") {
        let written = seeds::write(std::path::Path::new(&folder));
        std::process::exit(i32::from(written.is_err()));
    }
    let name = argument("--target=");
    if let Some((_, t)) = TARGETS.iter().find(|(n, _)| name.as_deref() == Some(n)) {
        return *t;
    }
    let names: Vec<_> = TARGETS.iter().map(|(n, _)| *n).collect();
    println!("{}", names.join(" "));
    std::process::exit(if argument("--list").is_some() { 0 } else { 2 })
}

libfuzzer_sys::fuzz_target!(init: { let _ = CHOSEN.set(choose()); }, |data: &[u8]| {
    if let Some(target) = CHOSEN.get() {
        target(data);
    }
});
