//! The second Rust implementation of MLS, mls-rs, as a member of our groups: every handshake goes through the server's own
//! rules, both sides read each other, and at every step they are in the same epoch with the same authenticator.
//!
//! The classic suite; the hybrid one has a code point that mls-rs does not know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use ed25519_dalek::SigningKey;
use mls_rs::client_builder::{MlsConfig, PaddingMode};
use mls_rs::crypto::{SignaturePublicKey, SignatureSecretKey};
use mls_rs::error::{IntoAnyError, MlsError};
use mls_rs::extension::ExtensionType;
use mls_rs::extension::built_in::ExternalSendersExt;
use mls_rs::group::{CommitEffect, CommitOutput, ExportedTree, ReceivedMessage};
use mls_rs::identity::basic::BasicCredential;
use mls_rs::identity::{CredentialType, SigningIdentity};
use mls_rs::mls_rules::{CommitOptions, DefaultMlsRules, EncryptionOptions};
use mls_rs::time::MlsTime;
use mls_rs::{CipherSuite, Client, Extension, ExtensionList, IdentityProvider, MlsMessage, ProtocolVersion};
use mls_rs_core::identity::MemberValidationContext;
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use rand::rngs::OsRng;
use sc_e2ee::E2eeError;
use sc_e2ee::group::{Change, Context, Crypto, Group, Leaf, PublicState, Received, group_id, key_package, verify_key_package};
use sc_e2ee::identity::{AccountIdentity, DeviceKeys};
use sc_e2ee::kv::{KvStorage, ScratchStore};
use sc_protocol::identity::Certificate;
use sc_protocol::rest::NewGroup;
use sc_protocol::{ConversationId, DeviceId, UserId, suite};
use secureconnect_server::mls;
use std::time::Duration;

const DAY: u64 = 86_400;
/// Code point of the last-resort extension; mls-rs has a name for it only behind `last_resort_key_package_ext`.
const LAST_RESORT: ExtensionType = ExtensionType::new(0x000A);

// ---------------------------------------------------------------- our side

struct Ours {
    crypto: Crypto,
    storage: KvStorage<ScratchStore>,
    user: UserId,
    device: DeviceKeys,
    certificate: Vec<u8>,
}

impl Ours {
    fn new() -> Self {
        let (user, device) = (UserId::generate(), DeviceKeys::generate(&mut OsRng));
        let certificate = AccountIdentity::generate(&mut OsRng).certify(user, device.device_id, &device.public()).to_bytes();
        Self { crypto: Crypto::default(), storage: KvStorage(ScratchStore::default()), user, device, certificate }
    }

    fn cx(&self) -> Context<'_, ScratchStore> {
        Context { crypto: &self.crypto, storage: &self.storage, device: &self.device, certificate: &self.certificate }
    }

    fn member(&self) -> mls::Member {
        mls::Member { user: self.user, device: self.device.device_id }
    }
}

fn anything(_: &[Leaf], _: &Change) -> Result<(), &'static str> {
    Ok(())
}

fn changed(r: Received) -> Change {
    match r {
        Received::Changed(c) => c,
        other => panic!("a commit was expected, not {other:?}"),
    }
}

fn message(r: Received) -> (Leaf, Vec<u8>) {
    match r {
        Received::Message { sender, bytes } => (sender, bytes),
        other => panic!("a message was expected, not {other:?}"),
    }
}

// ---------------------------------------------------------------- the mls-rs side

#[derive(Debug)]
struct NotCertified;

impl IntoAnyError for NotCertified {}

/// Whose leaf it is, as our side decides it: a leaf without a valid certificate is refused.
#[derive(Clone)]
struct Certified {
    server_key: Vec<u8>,
    lenient: bool,
}

fn certificate_of(id: &SigningIdentity) -> Result<Certificate, NotCertified> {
    let basic = id.credential.as_basic().ok_or(NotCertified)?;
    Certificate::verify(&basic.identifier, &id.signature_key).map_err(|_| NotCertified)
}

impl IdentityProvider for Certified {
    type Error = NotCertified;

    fn validate_member(&self, id: &SigningIdentity, _: Option<MlsTime>, _: MemberValidationContext<'_>) -> Result<(), NotCertified> {
        certificate_of(id).map(drop)
    }

    fn validate_external_sender(&self, id: &SigningIdentity, _: Option<MlsTime>, _: Option<&ExtensionList>) -> Result<(), NotCertified> {
        let named = id.credential.as_basic().is_some_and(|b| b.identifier == mls::SENDER_NAME);
        if named && *id.signature_key == *self.server_key { Ok(()) } else { Err(NotCertified) }
    }

    /// mls-rs wants this to be unique in a group.
    fn identity(&self, id: &SigningIdentity, _: &ExtensionList) -> Result<Vec<u8>, NotCertified> {
        Ok(certificate_of(id)?.device_id.as_bytes().to_vec())
    }

    fn valid_successor(&self, old: &SigningIdentity, new: &SigningIdentity, _: &ExtensionList) -> Result<bool, NotCertified> {
        Ok(self.lenient || old == new)
    }

    fn supported_types(&self) -> Vec<CredentialType> {
        vec![CredentialType::BASIC]
    }
}

struct Other<C: MlsConfig> {
    user: UserId,
    device: DeviceId,
    client: Client<C>,
}

impl<C: MlsConfig> Other<C> {
    /// A key package as one of our clients makes it: 60 days, from an hour ago.
    fn key_package(&self, last_resort: bool) -> anyhow::Result<Vec<u8>> {
        let mut extensions = ExtensionList::new();
        if last_resort {
            extensions.set(Extension::new(LAST_RESORT, Vec::new()));
        }
        let from = MlsTime::now() - Duration::from_secs(3600);
        Ok(self.client.generate_key_package_message(extensions, ExtensionList::new(), Some(from))?.to_bytes()?)
    }

    fn member(&self) -> mls::Member {
        mls::Member { user: self.user, device: self.device }
    }

    fn join(&self, welcome: &[u8], tree: &[u8]) -> anyhow::Result<mls_rs::Group<C>> {
        let welcome = MlsMessage::from_bytes(welcome)?;
        Ok(self.client.join_group(Some(ExportedTree::from_bytes(tree)?), &welcome, Some(MlsTime::now()))?.0)
    }
}

/// How a client differs from ours.
#[derive(Clone, Copy, Default)]
struct Odd {
    encrypts_handshakes: bool,
    /// Would commit under another device's credential.
    lenient: bool,
}

/// Set to what our clients are set to; see `sc_e2ee::group`.
fn other(server_key: &SigningKey, odd: Odd) -> Other<impl MlsConfig + use<>> {
    let (user, device, key) = (UserId::generate(), DeviceId::generate(), SigningKey::generate(&mut OsRng));
    let certificate = AccountIdentity::generate(&mut OsRng).certify(user, device, &key.verifying_key().to_bytes()).to_bytes();
    client(server_key, user, device, signing(&key, certificate), odd)
}

/// A device's key and credential as mls-rs takes them.
fn signing(key: &SigningKey, certificate: Vec<u8>) -> (SigningIdentity, SignatureSecretKey) {
    let public = SignaturePublicKey::new(key.verifying_key().to_bytes().to_vec());
    // 64 bytes: the seed and the public key.
    let secret = SignatureSecretKey::new(key.to_keypair_bytes().to_vec());
    (SigningIdentity::new(BasicCredential::new(certificate).into_credential(), public), secret)
}

fn client(
    server_key: &SigningKey,
    user: UserId,
    device: DeviceId,
    (identity, secret): (SigningIdentity, SignatureSecretKey),
    odd: Odd,
) -> Other<impl MlsConfig + use<>> {
    // The tree travels beside the messages; every commit comes with a GroupInfo for external commits.
    let commits = CommitOptions::new().with_path_required(true).with_ratchet_tree_extension(false).with_allow_external_commit(true);
    let rules = DefaultMlsRules::new()
        .with_commit_options(commits)
        .with_encryption_options(EncryptionOptions::new(odd.encrypts_handshakes, PaddingMode::None));
    let client = Client::builder()
        .crypto_provider(RustCryptoProvider::with_enabled_cipher_suites(vec![CipherSuite::CURVE25519_AES128]))
        .identity_provider(Certified { server_key: server_key.verifying_key().to_bytes().to_vec(), lenient: odd.lenient })
        .extension_type(LAST_RESORT)
        .key_package_lifetime(Duration::from_secs(60 * DAY))
        .mls_rules(rules)
        .signing_identity(identity, secret, CipherSuite::CURVE25519_AES128)
        .build();
    Other { user, device, client }
}

fn commit_bytes(out: &CommitOutput) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let info = out.external_commit_group_info.as_ref().expect("allow_external_commit is set");
    Ok((out.commit_message.to_bytes()?, info.to_bytes()?))
}

fn get<C: MlsConfig>(group: &mut mls_rs::Group<C>, payload: &[u8]) -> anyhow::Result<ReceivedMessage> {
    Ok(group.process_incoming_message(MlsMessage::from_bytes(payload)?)?)
}

fn authenticator<C: MlsConfig>(group: &mls_rs::Group<C>) -> Vec<u8> {
    group.epoch_authenticator().expect("a member").as_bytes().to_vec()
}

fn same<C: MlsConfig>(ours: &Group, theirs: &mls_rs::Group<C>) {
    assert_eq!(ours.epoch(), theirs.current_epoch());
    assert_eq!(ours.authenticator(), authenticator(theirs));
    assert_eq!(ours.leaves().expect("certified").len(), theirs.roster().members().len());
}

fn talk<C: MlsConfig>(ours: &Ours, group: &mut Group, theirs: &mut mls_rs::Group<C>, who: DeviceId) -> anyhow::Result<()> {
    for n in 0..3u8 {
        let content = vec![n; 64 * (usize::from(n) + 1)];
        let ReceivedMessage::ApplicationMessage(m) = get(theirs, &group.encrypt(&ours.cx(), &content)?)? else { panic!("no message") };
        assert_eq!(m.data(), content);
        let sent = theirs.encrypt_application_message(&content, Vec::new())?.to_bytes()?;
        let (sender, bytes) = message(group.receive(&ours.cx(), &sent, &anything)?);
        assert_eq!((sender.device, bytes), (who, content));
    }
    // Out of order, and twice.
    let sent: Vec<_> =
        (0..3u8).map(|n| theirs.encrypt_application_message(&[n; 64], Vec::new())?.to_bytes()).collect::<Result<_, MlsError>>()?;
    for n in [2, 0, 1] {
        assert_eq!(message(group.receive(&ours.cx(), &sent[n], &anything)?).1, [n as u8; 64]);
    }
    assert!(matches!(group.receive(&ours.cx(), &sent[1], &anything), Err(E2eeError::Duplicate)));
    Ok(())
}

/// A conversation that one of ours has made, on the server.
fn conversation(alice: &Ours, server_key: &SigningKey) -> anyhow::Result<(Group, mls::Group)> {
    let (conversation, server_public) = (ConversationId::generate(), server_key.verifying_key().to_bytes());
    let (group, public) = Group::create(&alice.cx(), conversation, 0, suite::CLASSIC, &server_public)?;
    let new = NewGroup { group_info: public.group_info.into(), ratchet_tree: public.ratchet_tree.into() };
    Ok((group, mls::Group::create(&new, &group_id(conversation, 0), alice.member(), &server_public)?))
}

/// Ours adds the other, which joins by the Welcome and the server's tree.
fn add<C: MlsConfig>(alice: &Ours, a: &mut Group, server: &mut mls::Group, bob: &Other<C>) -> anyhow::Result<mls_rs::Group<C>> {
    let package = bob.key_package(false)?;
    assert_eq!(mls::check_key_package(&package, bob.member())?, suite::CLASSIC);
    let package = verify_key_package(&alice.crypto, suite::CLASSIC, &package)?;
    assert_eq!((package.leaf.user, package.leaf.device), (bob.user, bob.device));
    let sent = a.commit(&alice.cx(), vec![package], &[])?;
    assert_eq!(server.commit(&sent.commit, &sent.group_info)?.added, [bob.member()]);
    assert!(changed(a.receive(&alice.cx(), &sent.commit, &anything)?).own);
    let b = bob.join(&sent.welcome.expect("somebody was added"), &server.tree()?)?;
    same(a, &b);
    Ok(b)
}

// ---------------------------------------------------------------- the scenario

#[test]
fn an_mls_rs_member_lives_through_everything_in_a_group_of_ours() -> anyhow::Result<()> {
    let server_key = SigningKey::generate(&mut OsRng);
    let (alice, bob) = (Ours::new(), other(&server_key, Odd::default()));

    // 1. Ours makes the group and adds the other.
    let (mut a, mut server) = conversation(&alice, &server_key)?;
    let mut b = add(&alice, &mut a, &mut server, &bob)?;

    // 2. Messages both ways.
    talk(&alice, &mut a, &mut b, bob.device)?;

    // 3. The other commits an update of itself; its own echo comes back to it.
    let out = b.commit(Vec::new())?;
    assert!(out.contains_update_path && out.welcome_messages.is_empty());
    let (commit, info) = commit_bytes(&out)?;
    server.commit(&commit, &info)?;
    let change = changed(a.receive(&alice.cx(), &commit, &anything)?);
    assert_eq!((change.committer.device, change.added.len(), change.removed.len()), (bob.device, 0, 0));
    assert!(matches!(get(&mut b, &commit)?, ReceivedMessage::Commit(_)));
    same(&a, &b);
    talk(&alice, &mut a, &mut b, bob.device)?;

    // 4. Ours commits.
    let sent = a.commit(&alice.cx(), Vec::new(), &[])?;
    server.commit(&sent.commit, &sent.group_info)?;
    a.merge_pending(&alice.cx())?;
    let ReceivedMessage::Commit(c) = get(&mut b, &sent.commit)? else { panic!("no commit") };
    assert!(!c.is_external && matches!(c.effect, CommitEffect::NewEpoch(_)));
    same(&a, &b);
    talk(&alice, &mut a, &mut b, bob.device)?;

    // 5. The other adds one of ours (last resort) and another mls-rs in one commit, one Welcome for both.
    let (carol, dave) = (Ours::new(), other(&server_key, Odd::default()));
    let out = b
        .commit_builder()
        .add_member(MlsMessage::from_bytes(&key_package(&carol.cx(), suite::CLASSIC, true)?)?)?
        .add_member(MlsMessage::from_bytes(&dave.key_package(true)?)?)?
        .build()?;
    let (commit, info) = commit_bytes(&out)?;
    let effect = server.commit(&commit, &info)?;
    assert_eq!(effect.added, [carol.member(), dave.member()]);
    assert_eq!(out.welcome_messages.len(), 1);
    let welcome = out.welcome_messages[0].to_bytes()?;
    assert_eq!(out.ratchet_tree.as_ref().expect("out of band").to_bytes()?, server.tree()?, "both encode the tree alike");
    let mut c = Group::join(&carol.cx(), &welcome, &server.tree()?)?;
    let mut d = dave.join(&welcome, &server.tree()?)?;
    assert_eq!(changed(a.receive(&alice.cx(), &commit, &anything)?).added.len(), 2);
    b.apply_pending_commit()?;
    assert_eq!(a.authenticator(), c.authenticator());
    same(&a, &b);
    same(&c, &d);
    talk(&carol, &mut c, &mut d, dave.device)?;

    // 6. Two commits at once: the server takes ours first, so the other's is dropped.
    let lost = b.commit(Vec::new())?;
    let sent = a.commit(&alice.cx(), Vec::new(), &[])?;
    server.commit(&sent.commit, &sent.group_info)?;
    let (commit, info) = commit_bytes(&lost)?;
    assert!(server.commit(&commit, &info).is_err(), "the epoch is over");
    a.receive(&alice.cx(), &sent.commit, &anything)?;
    c.receive(&carol.cx(), &sent.commit, &anything)?;
    get(&mut b, &sent.commit)?;
    get(&mut d, &sent.commit)?;
    assert!(!b.has_pending_commit());
    same(&a, &b);
    same(&c, &d);

    // 7. The server proposes to remove dave (mls-rs); carol (openmls) commits it.
    let proposals = server.propose_removals(&[dave.device], &server_key)?;
    assert_eq!(proposals.len(), 1);
    for (who, group) in [(&alice, &mut a), (&carol, &mut c)] {
        assert!(matches!(group.receive(&who.cx(), &proposals[0], &anything)?, Received::Proposed));
    }
    assert!(matches!(get(&mut b, &proposals[0])?, ReceivedMessage::Proposal(_)));
    assert!(matches!(b.encrypt_application_message(b"too late", Vec::new()), Err(MlsError::CommitRequired)));
    assert!(matches!(get(&mut d, &proposals[0])?, ReceivedMessage::Proposal(_)));
    let sent = c.commit(&carol.cx(), Vec::new(), &[])?;
    assert_eq!(server.commit(&sent.commit, &sent.group_info)?.removed_by_server, [dave.member()]);
    c.merge_pending(&carol.cx())?;
    a.receive(&alice.cx(), &sent.commit, &anything)?;
    get(&mut b, &sent.commit)?;
    let ReceivedMessage::Commit(out) = get(&mut d, &sent.commit)? else { panic!("no commit") };
    assert!(matches!(out.effect, CommitEffect::Removed { .. }));
    same(&a, &b);

    // 8. The server proposes to remove carol (openmls); bob (mls-rs) commits it by reference.
    let proposals = server.propose_removals(&[carol.device.device_id], &server_key)?;
    for (who, group) in [(&alice, &mut a), (&carol, &mut c)] {
        group.receive(&who.cx(), &proposals[0], &anything)?;
    }
    get(&mut b, &proposals[0])?;
    let out = b.commit(Vec::new())?;
    assert!(out.unused_proposals.is_empty());
    let (commit, info) = commit_bytes(&out)?;
    assert_eq!(server.commit(&commit, &info)?.removed_by_server, [carol.member()]);
    b.apply_pending_commit()?;
    assert_eq!(changed(a.receive(&alice.cx(), &commit, &anything)?).removed.len(), 1);
    assert!(changed(c.receive(&carol.cx(), &commit, &anything)?).self_removed);
    same(&a, &b);
    talk(&alice, &mut a, &mut b, bob.device)?;

    // 9. Ours rejoins by an external commit, on the GroupInfo mls-rs made.
    let public = PublicState { group_info: info, ratchet_tree: server.tree()? };
    let (again, scratch, sent) = Group::rejoin(&alice.crypto, &alice.device, &alice.certificate, &public)?;
    assert!(server.commit(&sent.commit, &sent.group_info)?.external);
    let alice = Ours { storage: KvStorage(ScratchStore::default()), ..alice };
    scratch.install(&alice.storage.0)?;
    let mut a = again;
    let ReceivedMessage::Commit(out) = get(&mut b, &sent.commit)? else { panic!("no commit") };
    assert!(out.is_external);
    same(&a, &b);
    talk(&alice, &mut a, &mut b, bob.device)?;

    // 10. mls-rs rejoins by an external commit, on the GroupInfo openmls made.
    let old = b.current_member_index();
    let (mut b, commit) = bob
        .client
        .external_commit_builder()?
        .with_tree_data(ExportedTree::from_bytes(&server.tree()?)?.into_owned())
        .with_removal(old)
        .build(MlsMessage::from_bytes(&sent.group_info)?)?;
    // An external commit returns no GroupInfo: the new group makes it.
    let info = b.group_info_message_allowing_ext_commit(false)?.to_bytes()?;
    let commit = commit.to_bytes()?;
    let effect = server.commit(&commit, &info)?;
    assert!(effect.external && effect.committer == bob.member() && effect.removed.is_empty());
    let change = changed(a.receive(&alice.cx(), &commit, &anything)?);
    assert!(change.rejoined && change.added.is_empty() && change.removed.is_empty());
    same(&a, &b);
    talk(&alice, &mut a, &mut b, bob.device)?;

    // 11. A new mls-rs device comes in by itself, on the GroupInfo of an external commit of mls-rs.
    let eve = other(&server_key, Odd::default());
    let (mut e, commit) = eve
        .client
        .external_commit_builder()?
        .with_tree_data(ExportedTree::from_bytes(&server.tree()?)?.into_owned())
        .build(MlsMessage::from_bytes(&info)?)?;
    let (commit, info) = (commit.to_bytes()?, e.group_info_message_allowing_ext_commit(false)?.to_bytes()?);
    assert_eq!(server.commit(&commit, &info)?.new_leaves.len(), 1);
    assert_eq!(changed(a.receive(&alice.cx(), &commit, &anything)?).added.len(), 1);
    get(&mut b, &commit)?;
    same(&a, &b);
    same(&a, &e);

    // 12. Ours removes it, and mls-rs removes ours.
    let sent = a.commit(&alice.cx(), Vec::new(), &[eve.device])?;
    assert_eq!(server.commit(&sent.commit, &sent.group_info)?.removed, [eve.member()]);
    a.merge_pending(&alice.cx())?;
    get(&mut b, &sent.commit)?;
    let ReceivedMessage::Commit(out) = get(&mut e, &sent.commit)? else { panic!("no commit") };
    assert!(matches!(out.effect, CommitEffect::Removed { .. }));
    same(&a, &b);
    let index = b.member_with_identity(alice.device.device_id.as_bytes())?.index;
    let out = b.commit_builder().remove_member(index)?.build()?;
    let (commit, info) = commit_bytes(&out)?;
    server.commit(&commit, &info)?;
    b.apply_pending_commit()?;
    assert!(changed(a.receive(&alice.cx(), &commit, &anything)?).self_removed);
    assert!(!a.is_active() && matches!(a.encrypt(&alice.cx(), b"x"), Err(E2eeError::NotInGroup)));
    Ok(())
}

/// The group is made by mls-rs; the server accepts it and one of ours joins.
#[test]
fn a_group_made_by_mls_rs_is_accepted_and_joined() -> anyhow::Result<()> {
    let server_key = SigningKey::generate(&mut OsRng);
    let (alice, bob) = (Ours::new(), other(&server_key, Odd::default()));
    let id = group_id(ConversationId::generate(), 0);
    let name = BasicCredential::new(mls::SENDER_NAME.to_vec()).into_credential();
    let sender = SigningIdentity::new(name, SignaturePublicKey::new(server_key.verifying_key().to_bytes().to_vec()));
    let mut extensions = ExtensionList::new();
    extensions.set_from(ExternalSendersExt::new(vec![sender]))?;
    let from = MlsTime::now() - Duration::from_secs(3600);
    let mut b = bob.client.create_group_with_id(id.clone(), extensions, ExtensionList::new(), Some(from))?;
    let new = NewGroup {
        group_info: b.group_info_message_allowing_ext_commit(false)?.to_bytes()?.into(),
        ratchet_tree: b.export_tree().to_bytes()?.into(),
    };
    let mut server = mls::Group::create(&new, &id, bob.member(), server_key.verifying_key().as_bytes())?;
    let out = b.commit_builder().add_member(MlsMessage::from_bytes(&key_package(&alice.cx(), suite::CLASSIC, false)?)?)?.build()?;
    let (commit, info) = commit_bytes(&out)?;
    server.commit(&commit, &info)?;
    b.apply_pending_commit()?;
    let mut a = Group::join(&alice.cx(), &out.welcome_messages[0].to_bytes()?, &server.tree()?)?;
    same(&a, &b);
    talk(&alice, &mut a, &mut b, bob.device)?;
    // Ours is loaded again from its store.
    let mut a = Group::load(&alice.storage, &id)?.expect("it is stored");
    talk(&alice, &mut a, &mut b, bob.device)?;
    Ok(())
}

/// What an mls-rs member may not do.
#[test]
fn what_an_mls_rs_member_may_not_do_is_refused_by_our_side_and_by_the_server() -> anyhow::Result<()> {
    let server_key = SigningKey::generate(&mut OsRng);
    let alice = Ours::new();
    let account = AccountIdentity::generate(&mut OsRng);
    let (user, device, key) = (UserId::generate(), DeviceId::generate(), SigningKey::generate(&mut OsRng));

    // A certificate for another key.
    let wrong = account.certify(user, device, &[7; 32]).to_bytes();
    let mallory = client(&server_key, user, device, signing(&key, wrong), Odd::default());
    let package = mallory.key_package(false)?;
    assert!(matches!(verify_key_package(&alice.crypto, suite::CLASSIC, &package), Err(E2eeError::Identity(_))));
    assert!(mls::check_key_package(&package, mallory.member()).is_err());

    // An encrypted handshake.
    let (mut a, mut server) = conversation(&alice, &server_key)?;
    let mallory = other(&server_key, Odd { encrypts_handshakes: true, ..Odd::default() });
    let mut m = add(&alice, &mut a, &mut server, &mallory)?;
    let (commit, info) = commit_bytes(&m.commit(Vec::new())?)?;
    assert!(server.commit(&commit, &info).is_err());
    assert!(matches!(a.receive(&alice.cx(), &commit, &anything), Err(E2eeError::Undecryptable(_))));

    // A commit that makes the leaf another device's, under a certificate that holds.
    let (mut a, mut server) = conversation(&alice, &server_key)?;
    let mallory = other(&server_key, Odd { lenient: true, ..Odd::default() });
    let mut m = add(&alice, &mut a, &mut server, &mallory)?;
    let (identity, secret) = signing(&key, account.certify(user, device, &key.verifying_key().to_bytes()).to_bytes());
    let (commit, info) = commit_bytes(&m.commit_builder().set_new_signing_identity(secret, identity).build()?)?;
    assert!(server.commit(&commit, &info).is_err());
    assert!(matches!(a.receive(&alice.cx(), &commit, &anything), Err(E2eeError::Policy(_))));
    m.clear_pending_commit();
    same(&Group::load(&alice.storage, &a.id())?.expect("it is stored"), &m);

    // A proposal by a member, and commits of kinds that are not used. Ours merges the latter: only the server refuses.
    let (mut a, mut server) = conversation(&alice, &server_key)?;
    let mut m = add(&alice, &mut a, &mut server, &other(&server_key, Odd::default()))?;
    let proposal = m.propose_remove(0, Vec::new())?.to_bytes()?;
    assert!(server.commit(&proposal, &[]).is_err());
    assert!(matches!(a.receive(&alice.cx(), &proposal, &anything), Err(E2eeError::Policy(_))));
    for kind in ["group context extensions", "re-init", "resumption PSK", "authenticated data"] {
        let (mut a, mut server) = conversation(&alice, &server_key)?;
        let mut m = add(&alice, &mut a, &mut server, &other(&server_key, Odd::default()))?;
        let builder = m.commit_builder();
        let out = match kind {
            "group context extensions" => builder.set_group_context_ext(ExtensionList::new())?.build()?,
            "re-init" => builder.reinit(None, ProtocolVersion::MLS_10, CipherSuite::CURVE25519_AES128, ExtensionList::new())?.build()?,
            "resumption PSK" => builder.add_resumption_psk(1)?.build()?,
            _ => builder.authenticated_data(b"extra".to_vec()).build()?,
        };
        let (commit, info) = commit_bytes(&out)?;
        assert!(server.commit(&commit, &info).is_err(), "{kind}");
        assert!(matches!(a.receive(&alice.cx(), &commit, &anything), Err(E2eeError::Policy(_))), "{kind}");
    }
    Ok(())
}
