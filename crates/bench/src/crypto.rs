//! The parts that compute: OPAQUE on the server, commits in a group of 256, one message in and out of a client's store.

use crate::percentiles;
use anyhow::{Context as _, Result};
use opaque_ke::{
    ClientLogin, ClientLoginFinishParameters, ClientRegistration, ClientRegistrationFinishParameters, Identifiers, ServerLogin,
    ServerLoginParameters, ServerRegistration, ServerSetup,
};
use rand::rngs::OsRng;
use sc_e2ee::group::{Context, Crypto, Group, VerifiedKeyPackage, key_package, verify_key_package};
use sc_e2ee::identity::{AccountIdentity, DeviceKeys};
use sc_e2ee::kv::{KvError, KvStorage, KvStore, ScratchStore};
use sc_protocol::opaque::{CONTEXT, Suite};
use sc_protocol::rest::NewGroup;
use sc_protocol::{ConversationId, UserId, suite};
use secureconnect_server::mls;
use std::cell::Cell;
use std::time::Instant;

fn ms(t: Instant) -> f64 {
    t.elapsed().as_secs_f64() * 1000.0
}

/// What the server computes for one login.
pub fn opaque() -> Result<()> {
    let fail = |e| anyhow::anyhow!("{e:?}");
    let setup = ServerSetup::<Suite>::new(&mut OsRng);
    let start = ClientRegistration::<Suite>::start(&mut OsRng, b"a long password").map_err(fail)?;
    let response = ServerRegistration::<Suite>::start(&setup, start.message, b"alice").map_err(fail)?.message;
    let params = ClientRegistrationFinishParameters::new(Identifiers::default(), None);
    let record =
        ServerRegistration::finish(start.state.finish(&mut OsRng, b"a long password", response, params).map_err(fail)?.message).serialize();
    let mut times = Vec::new();
    for _ in 0..40 {
        let client = ClientLogin::<Suite>::start(&mut OsRng, b"a long password").map_err(fail)?;
        let params = || ServerLoginParameters { context: Some(CONTEXT), identifiers: Identifiers::default() };
        let t = Instant::now();
        let file = ServerRegistration::<Suite>::deserialize(&record).map_err(fail)?;
        let server = ServerLogin::start(&mut OsRng, &setup, Some(file), client.message, b"alice", params()).map_err(fail)?;
        let first = ms(t);
        let finish = ClientLoginFinishParameters::new(Some(CONTEXT), Identifiers::default(), None);
        let done = client.state.finish(&mut OsRng, b"a long password", server.message, finish).map_err(fail)?;
        let t = Instant::now();
        server.state.finish(done.message, params()).map_err(fail)?;
        times.push(first + ms(t));
    }
    let (p50, p99) = percentiles(times);
    println!("OPAQUE login, the server's part: p50 {p50:.3} ms, p99 {p99:.3} ms");
    Ok(())
}

/// A device without a store.
struct Device {
    storage: KvStorage<ScratchStore>,
    user: UserId,
    keys: DeviceKeys,
    certificate: Vec<u8>,
}

impl Device {
    fn new() -> Self {
        let (user, keys) = (UserId::generate(), DeviceKeys::generate(&mut OsRng));
        let certificate = AccountIdentity::generate(&mut OsRng).certify(user, keys.device_id, &keys.public()).to_bytes();
        Self { storage: KvStorage(ScratchStore::default()), user, keys, certificate }
    }

    fn cx<'a>(&'a self, crypto: &'a Crypto) -> Context<'a, ScratchStore> {
        Context { crypto, storage: &self.storage, device: &self.keys, certificate: &self.certificate }
    }

    fn package(&self, crypto: &Crypto, suite: u16) -> Result<VerifiedKeyPackage> {
        Ok(verify_key_package(crypto, suite, &key_package(&self.cx(crypto), suite, false)?)?)
    }
}

/// Counts what is put into the store under it.
struct Counting<'a>(&'a ScratchStore, &'a Cell<usize>);

impl KvStore for Counting<'_> {
    fn get(&self, scope: &[u8], label: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(scope, label, key)
    }

    fn put(&self, scope: &[u8], label: &str, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.1.set(self.1.get() + value.len());
        self.0.put(scope, label, key, value)
    }

    fn delete(&self, scope: &[u8], label: &str, key: &[u8]) -> Result<(), KvError> {
        self.0.delete(scope, label, key)
    }

    fn delete_scope(&self, scope: &[u8]) -> Result<(), KvError> {
        self.0.delete_scope(scope)
    }
}

/// Bytes of session state that one message makes the store rewrite.
fn rewritten(crypto: &Crypto, name: &str, from: (&Device, &mut Group), to: (&Device, &mut Group)) -> Result<()> {
    let (out, inward) = (Cell::new(0), Cell::new(0));
    let store = KvStorage(Counting(&from.0.storage.0, &out));
    let cx = Context { crypto, storage: &store, device: &from.0.keys, certificate: &from.0.certificate };
    let sent = from.1.encrypt(&cx, &[7; 256])?;
    let store = KvStorage(Counting(&to.0.storage.0, &inward));
    let cx = Context { crypto, storage: &store, device: &to.0.keys, certificate: &to.0.certificate };
    to.1.receive(&cx, &sent, &|_, _| Ok(()))?;
    println!("{name}: session state rewritten for a message: {} bytes by its sender, {} by a receiver", out.get(), inward.get());
    Ok(())
}

/// A group of 256, and one more.
pub fn commits() -> Result<()> {
    let crypto = Crypto::default();
    let server_key = ed25519_dalek::SigningKey::generate(&mut OsRng);
    let server_public = server_key.verifying_key().to_bytes();
    let (founder, suite, conversation) = (Device::new(), suite::CLASSIC, ConversationId::generate());
    let cx = founder.cx(&crypto);
    let (mut group, public) = Group::create(&cx, conversation, 0, suite, &server_public)?;
    let new = NewGroup { group_info: public.group_info.into(), ratchet_tree: public.ratchet_tree.into() };
    let creator = mls::Member { user: founder.user, device: founder.keys.device_id };
    let mut server = mls::Group::create(&new, &mls::group_id(conversation, 0), creator, &server_public)?;
    let members: Vec<Device> = (1..256).map(|_| Device::new()).collect();
    let packages = members.iter().map(|d| d.package(&crypto, suite)).collect::<Result<Vec<_>>>()?;
    let all = group.commit(&cx, packages, &[])?;
    server.commit(&all.commit, &all.group_info)?;
    group.merge_pending(&cx)?;
    let (mut build, mut check, mut follow) = (Vec::new(), Vec::new(), Vec::new());
    let welcome = all.welcome.context("a Welcome")?;
    let reader = members.first().context("a member")?;
    let mut read = Group::join(&reader.cx(&crypto), &welcome, &server.tree()?)?;
    rewritten(&crypto, "group of 256", (&founder, &mut group), (reader, &mut read))?;
    let mut up = 0;
    for _ in 0..20 {
        let package = Device::new().package(&crypto, suite)?;
        let t = Instant::now();
        let sent = group.commit(&cx, vec![package], &[])?;
        build.push(ms(t));
        up = up.max(sent.commit.len() + sent.welcome.map_or(0, |w| w.len()) + sent.group_info.len());
        let t = Instant::now();
        server.commit(&sent.commit, &sent.group_info)?;
        check.push(ms(t));
        group.merge_pending(&cx)?;
        let t = Instant::now();
        read.receive(&reader.cx(&crypto), &sent.commit, &|_, _| Ok(()))?;
        follow.push(ms(t));
    }
    let ((b, _), (c, _), (f, _)) = (percentiles(build), percentiles(check), percentiles(follow));
    println!(
        "a commit that adds one to a group of 256: built in {b:.1} ms, checked by the server in {c:.1} ms, followed in {f:.1} ms, {up} bytes up (p50 of 20)"
    );
    Ok(())
}
