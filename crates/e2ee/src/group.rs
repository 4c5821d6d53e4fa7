//! One MLS group, as this product uses it.
//!
//! | state | what may happen |
//! |---|---|
//! | loaded | encrypt, receive, build a commit |
//! | commit pending | receive (another's commit wins and drops ours), merge when the server accepted it, clear when not |
//! | removed | nothing; the history stays readable, it is not here |
//!
//! A commit is merged in the transaction in which its place in the log is known. After any error of a mutating call the
//! value is thrown away and loaded again: memory may have run ahead of the store.

use crate::E2eeError;
use crate::identity::DeviceKeys;
use crate::kv::{KvStorage, KvStore, ScratchStore, scope};
use openmls::framing::errors::{MessageDecryptionError, SecretTreeError};
use openmls::group::{GroupId, MlsGroupJoinConfig};
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialType, CredentialWithKey, Extension, ExtensionType, Extensions, ExternalSender,
    GroupContext, KeyPackage, LeafNode, LeafNodeIndex, LeafNodeParameters, Lifetime, MlsGroup, MlsMessageBodyIn, MlsMessageIn,
    MlsMessageOut, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProcessMessageError, ProcessedMessageContent, ProposalType, ProtocolVersion,
    RatchetTreeIn, Sender, SenderRatchetConfiguration, StagedCommit, StagedWelcome, ValidationError,
};
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;
use sc_protocol::identity::Certificate;
use sc_protocol::{ConversationId, DeviceId, UserId, suite};

/// Seconds a key package is valid: 60 days.
const KEY_PACKAGE_SECONDS: u64 = 60 * 86_400;
/// Messages of one sender that may arrive out of order, and that may be missing. The log is ordered; this is slack.
const RATCHET: (u32, u32) = (50, 2000);
/// Name of the server as external sender; the same as on the server.
const SENDER_NAME: &[u8] = b"SecureConnect delivery service";

/// Cryptographic algorithms and randomness of openmls; made once per process.
#[derive(Debug, Default)]
pub struct Crypto(RustCrypto);

/// Everything an operation needs besides the group.
pub struct Context<'a, K> {
    /// Algorithms and randomness.
    pub crypto: &'a Crypto,
    /// State, inside the open transaction.
    pub storage: &'a KvStorage<K>,
    /// This device.
    pub device: &'a DeviceKeys,
    /// Its certificate.
    pub certificate: &'a [u8],
}

impl<K: KvStore> OpenMlsProvider for Context<'_, K> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = KvStorage<K>;

    fn storage(&self) -> &KvStorage<K> {
        self.storage
    }

    fn crypto(&self) -> &RustCrypto {
        &self.crypto.0
    }

    fn rand(&self) -> &RustCrypto {
        &self.crypto.0
    }
}

impl<K> Context<'_, K> {
    fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.certificate.to_vec()).into(),
            signature_key: self.device.public().to_vec().into(),
        }
    }
}

struct DeviceSigner<'a>(&'a DeviceKeys);

impl Signer for DeviceSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign(payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// A leaf: whose device, under which identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The account.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// The account identity key its certificate is signed with.
    pub identity_key: [u8; 32],
    /// The device's signature key.
    pub device_key: Vec<u8>,
}

/// What a commit changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who committed.
    pub committer: Leaf,
    /// Devices that came in, by Add or by themselves.
    pub added: Vec<Leaf>,
    /// Devices that are out. A device that rejoined is in neither list.
    pub removed: Vec<Leaf>,
    /// It came in by an external commit and was inside before: its session was refreshed.
    pub rejoined: bool,
    /// This device is out.
    pub self_removed: bool,
    /// It is our own pending commit.
    pub own: bool,
}

/// What came out of an envelope.
#[derive(Debug)]
pub enum Received {
    /// An application message.
    Message {
        /// Who sent it.
        sender: Leaf,
        /// The padded content.
        bytes: Vec<u8>,
    },
    /// An echo of this device's own message.
    OwnMessage,
    /// A commit; it has been merged.
    Changed(Change),
    /// A proposal of the server; somebody commits it.
    Proposed,
}

/// A commit on its way to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitBundle {
    /// PublicMessage.
    pub commit: Vec<u8>,
    /// Welcome for those who are added.
    pub welcome: Option<Vec<u8>>,
    /// GroupInfo of the new epoch.
    pub group_info: Vec<u8>,
}

/// Public state of a group, for the server or from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicState {
    /// GroupInfo without tree.
    pub group_info: Vec<u8>,
    /// Ratchet tree.
    pub ratchet_tree: Vec<u8>,
}

/// The MLS group id of a conversation's generation.
#[must_use]
pub fn group_id(conversation: ConversationId, generation: u32) -> Vec<u8> {
    [conversation.as_bytes().as_slice(), &generation.to_be_bytes()].concat()
}

fn ciphersuite(code: u16) -> Result<Ciphersuite, E2eeError> {
    match code {
        suite::CLASSIC => Ok(Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519),
        suite::HYBRID => Ok(Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519),
        _ => Err(E2eeError::Invalid("the ciphersuite is not one of ours")),
    }
}

fn capabilities() -> Capabilities {
    let suites = [Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519, Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519];
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&suites),
        Some(&[ExtensionType::LastResort]),
        Some(&[]),
        Some(&[CredentialType::Basic]),
    )
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(0)
        .number_of_resumption_psks(0)
        .use_ratchet_tree_extension(false)
        .sender_ratchet_configuration(SenderRatchetConfiguration::new(RATCHET.0, RATCHET.1))
        .build()
}

fn bytes(m: &MlsMessageOut) -> Result<Vec<u8>, E2eeError> {
    m.tls_serialize_detached().map_err(E2eeError::mls)
}

/// Whose leaf it is; an error when its certificate does not verify.
fn leaf(credential: &[u8], key: &[u8]) -> Result<Leaf, E2eeError> {
    let c = Certificate::verify(credential, key)?;
    Ok(Leaf { user: c.user_id, device: c.device_id, identity_key: c.identity_key, device_key: key.to_vec() })
}

fn leaf_of(node: &LeafNode) -> Result<Leaf, E2eeError> {
    leaf(node.credential().serialized_content(), node.signature_key().as_slice())
}

/// Makes a key package; its private half goes into the store.
pub fn key_package<K: KvStore>(cx: &Context<'_, K>, suite: u16, last_resort: bool) -> Result<Vec<u8>, E2eeError> {
    let mut builder = KeyPackage::builder().key_package_lifetime(Lifetime::new(KEY_PACKAGE_SECONDS)).leaf_node_capabilities(capabilities());
    if last_resort {
        builder = builder.mark_as_last_resort();
    }
    let bundle = builder.build(ciphersuite(suite)?, cx, &DeviceSigner(cx.device), cx.credential()).map_err(E2eeError::mls)?;
    bytes(&MlsMessageOut::from(bundle.key_package().clone()))
}

/// A key package that verifies, with the leaf it stands for.
#[derive(Debug, Clone)]
pub struct VerifiedKeyPackage {
    package: KeyPackage,
    /// Whose it is.
    pub leaf: Leaf,
}

/// Verifies a key package the server handed out: suite, signatures, lifetime, certificate.
pub fn verify_key_package(crypto: &Crypto, suite: u16, package: &[u8]) -> Result<VerifiedKeyPackage, E2eeError> {
    let MlsMessageBodyIn::KeyPackage(kp) =
        MlsMessageIn::tls_deserialize_exact(package).map_err(|_| E2eeError::Invalid("the key package cannot be read"))?.extract()
    else {
        return Err(E2eeError::Invalid("this is not a key package"));
    };
    let package = kp.validate(&crypto.0, ProtocolVersion::Mls10).map_err(E2eeError::mls)?;
    if package.ciphersuite() != ciphersuite(suite)? || !package.life_time().has_acceptable_range() {
        return Err(E2eeError::Invalid("the key package has another suite or an impossible lifetime"));
    }
    let leaf = leaf_of(package.leaf_node())?;
    Ok(VerifiedKeyPackage { package, leaf })
}

/// Decides whether a change may be merged; given the group as it was and what would change.
pub type Policy<'a> = &'a dyn Fn(&[Leaf], &Change) -> Result<(), &'static str>;

/// A group in memory.
pub struct Group {
    mls: MlsGroup,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group(epoch {})", self.epoch())
    }
}

impl Group {
    /// A new group with this device alone, epoch 0, and its public state for the server.
    pub fn create<K: KvStore>(
        cx: &Context<'_, K>,
        conversation: ConversationId,
        generation: u32,
        suite: u16,
        server_key: &[u8],
    ) -> Result<(Self, PublicState), E2eeError> {
        let sender = ExternalSender::new(server_key.to_vec().into(), BasicCredential::new(SENDER_NAME.to_vec()).into());
        let extensions = Extensions::<GroupContext>::from_vec(vec![Extension::ExternalSenders(vec![sender])]).map_err(E2eeError::mls)?;
        let signer = DeviceSigner(cx.device);
        let mls = MlsGroup::builder()
            .with_group_id(GroupId::from_slice(&group_id(conversation, generation)))
            .ciphersuite(ciphersuite(suite)?)
            .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(0)
            .number_of_resumption_psks(0)
            .use_ratchet_tree_extension(false)
            .sender_ratchet_configuration(SenderRatchetConfiguration::new(RATCHET.0, RATCHET.1))
            .with_capabilities(capabilities())
            .with_group_context_extensions(extensions)
            .build(cx, &signer, cx.credential())
            .map_err(E2eeError::mls)?;
        let info = mls.export_group_info(cx.crypto(), &signer, false).map_err(E2eeError::mls)?;
        let tree = mls.export_ratchet_tree().tls_serialize_detached().map_err(E2eeError::mls)?;
        let public = PublicState { group_info: bytes(&info)?, ratchet_tree: tree };
        Ok((Self { mls }, public))
    }

    /// The group as stored; `None` when there is none.
    pub fn load<K: KvStore>(storage: &KvStorage<K>, id: &[u8]) -> Result<Option<Self>, E2eeError> {
        let mls = MlsGroup::load(storage, &GroupId::from_slice(id)).map_err(E2eeError::mls)?;
        Ok(mls.map(|mls| Self { mls }))
    }

    /// Deletes everything of a group.
    pub fn delete<K: KvStore>(storage: &KvStorage<K>, id: &[u8]) -> Result<(), E2eeError> {
        let scope = scope(&GroupId::from_slice(id)).map_err(E2eeError::mls)?;
        storage.0.delete_scope(&scope).map_err(E2eeError::mls)
    }

    /// Joins by a Welcome. The key package it uses is spent, so an error must roll the transaction back.
    pub fn join<K: KvStore>(cx: &Context<'_, K>, welcome: &[u8], tree: &[u8]) -> Result<Self, E2eeError> {
        let MlsMessageBodyIn::Welcome(welcome) =
            MlsMessageIn::tls_deserialize_exact(welcome).map_err(|_| E2eeError::Invalid("the Welcome cannot be read"))?.extract()
        else {
            return Err(E2eeError::Invalid("this is not a Welcome"));
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(tree).map_err(|_| E2eeError::Invalid("the ratchet tree cannot be read"))?;
        let staged = StagedWelcome::build_from_welcome(cx, &join_config(), welcome)
            .map_err(E2eeError::mls)?
            .with_ratchet_tree(tree)
            .skip_lifetime_validation()
            .replace_old_group()
            .build()
            .map_err(E2eeError::mls)?;
        let mls = staged.into_group(cx).map_err(E2eeError::mls)?;
        let this = Self { mls };
        this.leaves()?;
        Ok(this)
    }

    /// Joins by an external commit, replacing this device's old leaf. Nothing of it is in the store yet: the returned
    /// scratch store is [installed](ScratchStore::install) once the server has accepted the commit.
    pub fn rejoin(
        crypto: &Crypto,
        device: &DeviceKeys,
        certificate: &[u8],
        public: &PublicState,
    ) -> Result<(Self, ScratchStore, CommitBundle), E2eeError> {
        let storage = KvStorage(ScratchStore::default());
        let cx = Context { crypto, storage: &storage, device, certificate };
        let MlsMessageBodyIn::GroupInfo(info) = MlsMessageIn::tls_deserialize_exact(&public.group_info)
            .map_err(|_| E2eeError::Invalid("the GroupInfo cannot be read"))?
            .extract()
        else {
            return Err(E2eeError::Invalid("this is not a GroupInfo"));
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(&public.ratchet_tree)
            .map_err(|_| E2eeError::Invalid("the ratchet tree cannot be read"))?;
        let (mls, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree)
            .with_config(join_config())
            .skip_lifetime_validation()
            .build_group(&cx, info, cx.credential())
            .map_err(E2eeError::mls)?
            .leaf_node_parameters(LeafNodeParameters::builder().with_capabilities(capabilities()).build())
            .load_psks(cx.storage())
            .map_err(E2eeError::mls)?
            .create_group_info(true)
            .build(cx.rand(), cx.crypto(), &DeviceSigner(device), |_| true)
            .map_err(E2eeError::mls)?
            .finalize(&cx)
            .map_err(E2eeError::mls)?;
        let this = Self { mls };
        this.leaves()?;
        let bundle = commit_bundle(bundle.into_messages())?;
        Ok((this, storage.0, bundle))
    }

    /// Encrypts padded content in the current epoch.
    pub fn encrypt<K: KvStore>(&mut self, cx: &Context<'_, K>, content: &[u8]) -> Result<Vec<u8>, E2eeError> {
        if !self.mls.is_active() {
            return Err(E2eeError::NotInGroup);
        }
        let message = self.mls.create_message(cx, &DeviceSigner(cx.device), content).map_err(E2eeError::mls)?;
        bytes(&message)
    }

    /// Takes one envelope's payload. A commit is merged when `policy` agrees.
    pub fn receive<K: KvStore>(&mut self, cx: &Context<'_, K>, payload: &[u8], policy: Policy<'_>) -> Result<Received, E2eeError> {
        let message = MlsMessageIn::tls_deserialize_exact(payload).map_err(|_| E2eeError::Invalid("the message cannot be read"))?;
        let message = message.try_into_protocol_message().map_err(|_| E2eeError::Invalid("this is not a message of a group"))?;
        if !self.mls.is_active() {
            return Err(E2eeError::NotInGroup);
        }
        if message.epoch() != self.mls.epoch() {
            return Err(E2eeError::WrongEpoch);
        }
        let processed = self.mls.process_message(cx, message).map_err(received_error)?;
        if !processed.aad().is_empty() {
            return Err(E2eeError::Policy("nothing travels beside a message unencrypted"));
        }
        let sender = processed.sender().clone();
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(m) => {
                let Sender::Member(index) = sender else { return Err(E2eeError::Invalid("a message by nobody")) };
                Ok(Received::Message { sender: self.known_leaf_at(index)?, bytes: m.into_bytes() })
            }
            ProcessedMessageContent::OwnPrivateMessage => Ok(Received::OwnMessage),
            ProcessedMessageContent::OwnPendingCommit => {
                let change = self.pending_change()?;
                self.mls.merge_pending_commit(cx).map_err(E2eeError::mls)?;
                Ok(Received::Changed(change))
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                let change = self.change(&sender, &staged)?;
                policy(&self.leaves()?, &change).map_err(E2eeError::Policy)?;
                self.mls.merge_staged_commit(cx, *staged).map_err(E2eeError::mls)?;
                Ok(Received::Changed(change))
            }
            ProcessedMessageContent::ProposalMessage(q) => {
                if !matches!(q.sender(), Sender::External(_)) || q.proposal().proposal_type() != ProposalType::Remove {
                    return Err(E2eeError::Policy("only the server files proposals, and only removals"));
                }
                self.mls.store_pending_proposal(cx.storage(), *q).map_err(E2eeError::mls)?;
                Ok(Received::Proposed)
            }
            _ => Err(E2eeError::Invalid("a message of a kind that is not used here")),
        }
    }

    /// Builds a commit: the server's proposals, additions, removals, fresh keys for this device. It is pending until it
    /// is merged or cleared.
    pub fn commit<K: KvStore>(
        &mut self,
        cx: &Context<'_, K>,
        adds: Vec<VerifiedKeyPackage>,
        removes: &[DeviceId],
    ) -> Result<CommitBundle, E2eeError> {
        if !self.mls.is_active() {
            return Err(E2eeError::NotInGroup);
        }
        if self.mls.pending_commit().is_some() {
            return Err(E2eeError::Invalid("another commit of this device is under way"));
        }
        let mut targets = Vec::new();
        for m in self.mls.members() {
            let l = leaf(m.credential.serialized_content(), &m.signature_key)?;
            if removes.contains(&l.device) && m.index != self.mls.own_leaf_index() {
                targets.push(m.index);
            }
        }
        let own = self.mls.own_leaf_index();
        let present: Vec<LeafNodeIndex> = self.mls.members().map(|m| m.index).collect();
        let bundle = self
            .mls
            .commit_builder()
            .consume_proposal_store(true)
            .force_self_update(true)
            .propose_removals(targets)
            .propose_adds(adds.into_iter().map(|a| a.package))
            .load_psks(cx.storage())
            .map_err(E2eeError::mls)?
            .create_group_info(true)
            .build(cx.rand(), cx.crypto(), &DeviceSigner(cx.device), |q| match q.proposal() {
                openmls::prelude::Proposal::Remove(r) => r.removed() != own && present.contains(&r.removed()),
                _ => true,
            })
            .map_err(E2eeError::mls)?
            .stage_commit(cx)
            .map_err(E2eeError::mls)?;
        commit_bundle(bundle.into_messages())
    }

    /// What the pending commit changes.
    pub fn pending_change(&self) -> Result<Change, E2eeError> {
        let staged = self.mls.pending_commit().ok_or(E2eeError::Invalid("no commit is pending"))?;
        let mut change = self.change(&Sender::Member(self.mls.own_leaf_index()), staged)?;
        change.own = true;
        Ok(change)
    }

    /// The server accepted our commit.
    pub fn merge_pending<K: KvStore>(&mut self, cx: &Context<'_, K>) -> Result<(), E2eeError> {
        self.mls.merge_pending_commit(cx).map_err(E2eeError::mls)
    }

    /// The server did not accept our commit.
    pub fn clear_pending<K: KvStore>(&mut self, storage: &KvStorage<K>) -> Result<(), E2eeError> {
        self.mls.clear_pending_commit(storage).map_err(E2eeError::mls)
    }

    /// True while a commit of this device waits.
    #[must_use]
    pub fn has_pending_commit(&self) -> bool {
        self.mls.pending_commit().is_some()
    }

    /// True while proposals of the server wait for a commit; until then nothing can be encrypted.
    #[must_use]
    pub fn has_proposals(&self) -> bool {
        self.mls.has_pending_proposals()
    }

    /// Current epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.mls.epoch().as_u64()
    }

    /// Group id.
    #[must_use]
    pub fn id(&self) -> Vec<u8> {
        self.mls.group_id().to_vec()
    }

    /// Ciphersuite code point.
    #[must_use]
    pub fn suite(&self) -> u16 {
        self.mls.ciphersuite() as u16
    }

    /// True while this device is inside.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.mls.is_active()
    }

    /// Equal on all devices of an epoch, and on no others.
    #[must_use]
    pub fn authenticator(&self) -> Vec<u8> {
        self.mls.epoch_authenticator().as_slice().to_vec()
    }

    /// 32 bytes for the media of this epoch (RFC 9420, 8.5): the same on all devices inside, and on no others. `context` names the room.
    pub fn export_media_secret<K: KvStore>(&self, cx: &Context<'_, K>, context: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, E2eeError> {
        let secret = self.mls.export_secret(cx.crypto(), "SecureConnect media v1", context, 32);
        secret.map(zeroize::Zeroizing::new).map_err(E2eeError::mls)
    }

    /// All leaves; an error when one has no valid certificate.
    pub fn leaves(&self) -> Result<Vec<Leaf>, E2eeError> {
        self.mls.members().map(|m| leaf(m.credential.serialized_content(), &m.signature_key)).collect()
    }

    /// True when a device of one of these accounts is inside. Every certificate was verified when it came in, so that is
    /// not done again for each message.
    #[must_use]
    pub fn has_any(&self, users: &[UserId]) -> bool {
        self.mls.members().any(|m| Certificate::parse(m.credential.serialized_content()).is_ok_and(|c| users.contains(&c.user_id)))
    }

    fn leaf_at(&self, index: LeafNodeIndex) -> Result<Leaf, E2eeError> {
        let m = self.mls.member_at(index).ok_or(E2eeError::Invalid("no such member"))?;
        leaf(m.credential.serialized_content(), &m.signature_key)
    }

    /// A leaf whose certificate was verified when it came in.
    fn known_leaf_at(&self, index: LeafNodeIndex) -> Result<Leaf, E2eeError> {
        let m = self.mls.member_at(index).ok_or(E2eeError::Invalid("no such member"))?;
        let c = Certificate::parse(m.credential.serialized_content())?;
        Ok(Leaf { user: c.user_id, device: c.device_id, identity_key: c.identity_key, device_key: m.signature_key })
    }

    fn change(&self, sender: &Sender, staged: &StagedCommit) -> Result<Change, E2eeError> {
        // Others would change what a group is, and a lying server would let them pass.
        let known = [ProposalType::Add, ProposalType::Remove, ProposalType::ExternalInit];
        if !staged.queued_proposals().all(|p| known.contains(&p.proposal().proposal_type())) {
            return Err(E2eeError::Policy("a commit adds, removes and renews keys, nothing else"));
        }
        let mut added =
            staged.add_proposals().map(|a| leaf_of(a.add_proposal().key_package().leaf_node())).collect::<Result<Vec<_>, _>>()?;
        let mut removed = staged.remove_proposals().map(|r| self.leaf_at(r.remove_proposal().removed())).collect::<Result<Vec<_>, _>>()?;
        let mut rejoined = false;
        let committer = match sender {
            Sender::Member(index) => {
                let old = self.leaf_at(*index)?;
                if let Some(new) = staged.update_path_leaf_node()
                    && leaf_of(new)? != old
                {
                    return Err(E2eeError::Policy("a commit may not change who the committer is"));
                }
                old
            }
            Sender::NewMemberCommit => {
                let new = leaf_of(staged.update_path_leaf_node().ok_or(E2eeError::Invalid("an external commit without a path"))?)?;
                if !added.is_empty() || removed.iter().any(|l| *l != new) {
                    return Err(E2eeError::Policy("a device that joins by itself may only replace its own leaf"));
                }
                rejoined = removed.pop().is_some();
                if !rejoined {
                    added.push(new.clone());
                }
                new
            }
            _ => return Err(E2eeError::Policy("a commit by neither a member nor a joining device")),
        };
        Ok(Change { committer, added, removed, rejoined, self_removed: staged.self_removed(), own: false })
    }
}

fn commit_bundle(
    (commit, welcome, info): (MlsMessageOut, Option<MlsMessageOut>, Option<MlsMessageOut>),
) -> Result<CommitBundle, E2eeError> {
    Ok(CommitBundle {
        commit: bytes(&commit)?,
        welcome: welcome.as_ref().map(bytes).transpose()?,
        group_info: bytes(&info.ok_or(E2eeError::Invalid("the commit came without its GroupInfo"))?)?,
    })
}

fn received_error<E: std::fmt::Display + std::fmt::Debug>(e: ProcessMessageError<E>) -> E2eeError {
    match e {
        ProcessMessageError::ValidationError(ValidationError::WrongEpoch) => E2eeError::WrongEpoch,
        ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(d)) => match d {
            MessageDecryptionError::SecretTreeError(SecretTreeError::SecretReuseError) => E2eeError::Duplicate,
            MessageDecryptionError::SecretTreeError(_) => E2eeError::Undecryptable("its key is no longer here"),
            _ => E2eeError::Undecryptable("its key does not fit"),
        },
        ProcessMessageError::ValidationError(_) => E2eeError::Undecryptable("it does not verify"),
        ProcessMessageError::GroupStateError(_) => E2eeError::NotInGroup,
        ProcessMessageError::InvalidCommit(_) => E2eeError::Undecryptable("the group change does not fit our state"),
        ProcessMessageError::LibraryError(_) | ProcessMessageError::StorageError(_) => E2eeError::mls(e),
        _ => E2eeError::Undecryptable("it is not allowed here"),
    }
}
