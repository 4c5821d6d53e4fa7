//! The server's view of a group: an OpenMLS `PublicGroup`, kept as one blob per conversation.
//!
//! Every handshake is validated before it enters the log, so that no member can be handed a commit it cannot follow for
//! reasons anybody could see. What OpenMLS leaves to the application is checked here: certificates, continuity of a
//! committer's identity, what an external commit may remove, the GroupInfo that goes with a commit. What only members
//! can check (path secrets, confirmation tag) only members check; `docs/security.md` says what follows from that.

use crate::error::{ApiError, ApiResult};
use openmls::group::{GroupId, ProposalStore, PublicGroup};
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use openmls::prelude::{
    BasicCredential, ExternalProposal, ExternalSender, LeafNode, LeafNodeIndex, MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent,
    RatchetTreeIn, Sender, SenderExtensionIndex, StagedCommit, Verifiable as _,
};
use openmls_rust_crypto::{MemoryStorage, OpenMlsRustCrypto, RustCrypto};
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;
use sc_protocol::identity::Certificate;
use sc_protocol::rest::NewGroup;
use sc_protocol::{ConversationId, DeviceId, ErrorCode, UserId};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Name in the external sender's credential.
pub const SENDER_NAME: &[u8] = b"SecureConnect delivery service";

/// A device of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// The account.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
}

/// A leaf that comes into a group, to be compared with the device it claims to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLeaf {
    /// Whose it says it is.
    pub member: Member,
    /// Its signature key.
    pub key: Vec<u8>,
    /// The account identity key its certificate is signed with.
    pub identity: [u8; 32],
}

/// What a valid commit does.
#[derive(Debug)]
pub struct CommitEffect {
    /// Who committed.
    pub committer: Member,
    /// True for a device that (re)joins by itself.
    pub external: bool,
    /// Every leaf that is new: by Add proposals, or the path of an external commit.
    pub new_leaves: Vec<NewLeaf>,
    /// Devices added by Add proposals.
    pub added: Vec<Member>,
    /// Devices removed, without the old leaf of a rejoining device.
    pub removed: Vec<Member>,
    /// Those of `removed` that the server itself proposed.
    pub removed_by_server: Vec<Member>,
}

/// A group loaded for one operation.
pub struct Group {
    group: PublicGroup,
    storage: MemoryStorage,
    crypto: RustCrypto,
}

/// The MLS group id of a conversation's generation.
#[must_use]
pub fn group_id(conversation: ConversationId, generation: u32) -> Vec<u8> {
    [conversation.as_bytes().as_slice(), &generation.to_be_bytes()].concat()
}

fn invalid(what: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::InvalidCommit, format!("The group change was refused: {what}."))
}

impl Group {
    /// Accepts the public state of a new group: epoch 0, the creator's device alone, our external sender.
    pub fn create(new: &NewGroup, id: &[u8], creator: Member, sender_key: &[u8]) -> ApiResult<Self> {
        let info = group_info(new.group_info.as_slice())?;
        let tree =
            RatchetTreeIn::tls_deserialize_exact(new.ratchet_tree.as_slice()).map_err(|_| invalid("the ratchet tree cannot be read"))?;
        let storage = MemoryStorage::default();
        let crypto = RustCrypto::default();
        let (group, _) = PublicGroup::from_external(&crypto, &storage, tree, info, ProposalStore::new()).map_err(invalid)?;
        let this = Self { group, storage, crypto };
        if this.group.group_id() != &GroupId::from_slice(id) || this.epoch() != 0 {
            return Err(invalid("wrong group id or epoch"));
        }
        let senders = vec![ExternalSender::new(sender_key.to_vec().into(), BasicCredential::new(SENDER_NAME.to_vec()).into())];
        if this.group.group_context().extensions().external_senders() != Some(&senders) {
            return Err(invalid("this server is not named as external sender"));
        }
        match this.members()?.as_slice() {
            [(_, only)] if *only == creator => Ok(this),
            _ => Err(invalid("a new group holds its creator's device alone")),
        }
    }

    /// From the stored blob.
    pub fn load(blob: &[u8], id: &[u8]) -> ApiResult<Self> {
        let values: HashMap<serde_bytes::ByteBuf, serde_bytes::ByteBuf> = ciborium::from_reader(blob).map_err(ApiError::internal)?;
        let values = values.into_iter().map(|(k, v)| (k.into_vec(), v.into_vec())).collect();
        let storage = MemoryStorage { values: RwLock::new(values) };
        let group = PublicGroup::load(&storage, &GroupId::from_slice(id))
            .map_err(ApiError::internal)?
            .ok_or_else(|| ApiError::internal("stored group is incomplete"))?;
        Ok(Self { group, storage, crypto: RustCrypto::default() })
    }

    /// For storage.
    pub fn to_blob(&self) -> ApiResult<Vec<u8>> {
        let values = self.storage.values.read().unwrap_or_else(PoisonError::into_inner);
        let values: HashMap<&serde_bytes::Bytes, &serde_bytes::Bytes> =
            values.iter().map(|(k, v)| (k.as_slice().into(), v.as_slice().into())).collect();
        let mut out = Vec::new();
        ciborium::into_writer(&values, &mut out).map_err(ApiError::internal)?;
        Ok(out)
    }

    /// Current epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.group.group_context().epoch().as_u64()
    }

    /// Ciphersuite code point.
    #[must_use]
    pub fn suite(&self) -> u16 {
        self.group.ciphersuite() as u16
    }

    /// The tree of the current epoch, TLS-encoded.
    pub fn tree(&self) -> ApiResult<Vec<u8>> {
        self.group.export_ratchet_tree().tls_serialize_detached().map_err(ApiError::internal)
    }

    /// The only leaf of a new group.
    pub fn creator(&self) -> ApiResult<NewLeaf> {
        let first = self.group.members().next().ok_or_else(|| invalid("it is empty"))?;
        new_leaf(self.group.leaf(first.index).ok_or_else(|| invalid("it is empty"))?)
    }

    /// Leaves and whose they are.
    pub fn members(&self) -> ApiResult<Vec<(LeafNodeIndex, Member)>> {
        self.group.members().map(|m| Ok((m.index, certified(m.credential.serialized_content(), &m.signature_key)?))).collect()
    }

    /// Validates a commit with its GroupInfo and applies it.
    pub fn commit(&mut self, commit: &[u8], info: &[u8]) -> ApiResult<CommitEffect> {
        let message = MlsMessageIn::tls_deserialize_exact(commit).map_err(|_| invalid("the commit cannot be read"))?;
        let message = message.try_into_protocol_message().map_err(|_| invalid("this is not a commit"))?;
        let processed = self.group.process_message(&self.crypto, message).map_err(invalid)?;
        if !processed.aad().is_empty() {
            return Err(invalid("it carries extra data"));
        }
        let sender = processed.sender().clone();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(invalid("this is not a commit"));
        };
        let (index, effect) = self.check(&sender, &staged)?;
        self.group.merge_commit(&self.storage, *staged).map_err(ApiError::internal)?;
        self.check_info(&group_info(info)?, index)?;
        Ok(effect)
    }

    fn check(&self, sender: &Sender, staged: &StagedCommit) -> ApiResult<(LeafNodeIndex, CommitEffect)> {
        let path = staged.update_path_leaf_node();
        let added =
            staged.add_proposals().map(|a| leaf_member(a.add_proposal().key_package().leaf_node())).collect::<ApiResult<Vec<_>>>()?;
        let mut new_leaves =
            staged.add_proposals().map(|a| new_leaf(a.add_proposal().key_package().leaf_node())).collect::<ApiResult<Vec<_>>>()?;
        let mut removed = Vec::new();
        let mut removed_by_server = Vec::new();
        for r in staged.remove_proposals() {
            let leaf = self.group.leaf(r.remove_proposal().removed()).ok_or_else(|| invalid("it removes nobody"))?;
            let member = leaf_member(leaf)?;
            removed.push(member);
            if matches!(r.sender(), Sender::External(_)) {
                removed_by_server.push(member);
            }
        }
        if staged.queued_proposals().any(|q| {
            !matches!(
                q.proposal().proposal_type(),
                openmls::prelude::ProposalType::Add | openmls::prelude::ProposalType::Remove | openmls::prelude::ProposalType::ExternalInit
            )
        }) {
            return Err(invalid("only additions and removals are allowed"));
        }
        match sender {
            Sender::Member(index) => {
                let old = self.group.leaf(*index).ok_or_else(|| invalid("unknown committer"))?;
                let committer = leaf_member(old)?;
                if path.is_some_and(|new| new.signature_key() != old.signature_key() || new.credential() != old.credential()) {
                    return Err(invalid("a commit may not change who the committer is"));
                }
                Ok((*index, CommitEffect { committer, external: false, new_leaves, added, removed, removed_by_server }))
            }
            Sender::NewMemberCommit => {
                let index = self.group.ext_commit_sender_index(staged).map_err(ApiError::internal)?;
                let new = path.ok_or_else(|| invalid("an external commit has a path"))?;
                let committer = leaf_member(new)?;
                let old = self.members()?.into_iter().find(|(_, m)| m.device == committer.device);
                let replaces_self = removed.as_slice() == [committer].as_slice();
                let same_key = staged
                    .remove_proposals()
                    .all(|r| self.group.leaf(r.remove_proposal().removed()).is_some_and(|l| l.signature_key() == new.signature_key()));
                let fine = if old.is_some() { replaces_self && same_key } else { removed.is_empty() };
                let taken = |m: openmls::prelude::Member| {
                    m.signature_key == new.signature_key().as_slice()
                        && !staged.remove_proposals().any(|r| r.remove_proposal().removed() == m.index)
                };
                if !fine || !added.is_empty() || self.group.members().any(taken) {
                    return Err(invalid("a device may only replace its own leaf"));
                }
                new_leaves.push(new_leaf(new)?);
                Ok((index, CommitEffect { committer, external: true, new_leaves, added, removed: Vec::new(), removed_by_server }))
            }
            _ => Err(invalid("unknown kind of committer")),
        }
    }

    /// The GroupInfo is of the new epoch, signed by the committer, without the tree (the server has it).
    fn check_info(&self, info: &VerifiableGroupInfo, committer: LeafNodeIndex) -> ApiResult<()> {
        let expect = VerifiableGroupInfo::new(
            self.group.group_context().clone(),
            info.extensions().clone(),
            self.group.confirmation_tag().clone(),
            committer,
            openmls::prelude::Verifiable::signature(info).clone(),
        );
        let leaf = self.group.leaf(committer).ok_or_else(|| invalid("unknown committer"))?;
        let scheme = self.group.ciphersuite().signature_algorithm();
        let key = leaf.signature_key().clone().into_signature_public_key_enriched(scheme);
        let fine = &expect == info
            && info.extensions().external_pub().is_some()
            && info.extensions().ratchet_tree().is_none()
            && info.verify_no_out(&self.crypto, &key).is_ok();
        if fine { Ok(()) } else { Err(invalid("its GroupInfo does not belong to it")) }
    }

    /// Files Remove proposals for devices, signed by the server; returns the messages for the log.
    pub fn propose_removals(&mut self, devices: &[DeviceId], key: &ed25519_dalek::SigningKey) -> ApiResult<Vec<Vec<u8>>> {
        let leaves: Vec<LeafNodeIndex> = self.members()?.into_iter().filter(|(_, m)| devices.contains(&m.device)).map(|(i, _)| i).collect();
        let signer = ServerSigner(key);
        let mut out = Vec::new();
        for leaf in leaves {
            let id = self.group.group_id().clone();
            let epoch = self.group.group_context().epoch();
            let message = ExternalProposal::new_remove::<OpenMlsRustCrypto>(leaf, id, epoch, &signer, SenderExtensionIndex::new(0))
                .map_err(ApiError::internal)?;
            let bytes = message.tls_serialize_detached().map_err(ApiError::internal)?;
            let parsed = MlsMessageIn::tls_deserialize_exact(&bytes).map_err(ApiError::internal)?;
            let processed = self
                .group
                .process_message(&self.crypto, parsed.try_into_protocol_message().map_err(ApiError::internal)?)
                .map_err(ApiError::internal)?;
            if let ProcessedMessageContent::ProposalMessage(q) = processed.into_content() {
                self.group.add_proposal(&self.storage, *q).map_err(ApiError::internal)?;
                out.push(bytes);
            }
        }
        Ok(out)
    }
}

fn group_info(bytes: &[u8]) -> ApiResult<VerifiableGroupInfo> {
    match MlsMessageIn::tls_deserialize_exact(bytes).map_err(|_| invalid("the GroupInfo cannot be read"))?.extract() {
        MlsMessageBodyIn::GroupInfo(info) => Ok(info),
        _ => Err(invalid("this is not a GroupInfo")),
    }
}

fn leaf_member(leaf: &LeafNode) -> ApiResult<Member> {
    certified(leaf.credential().serialized_content(), leaf.signature_key().as_slice())
}

fn new_leaf(leaf: &LeafNode) -> ApiResult<NewLeaf> {
    let key = leaf.signature_key().as_slice().to_vec();
    let c = Certificate::verify(leaf.credential().serialized_content(), &key).map_err(invalid)?;
    Ok(NewLeaf { member: Member { user: c.user_id, device: c.device_id }, key, identity: c.identity_key })
}

fn certified(credential: &[u8], key: &[u8]) -> ApiResult<Member> {
    let c = Certificate::verify(credential, key).map_err(invalid)?;
    Ok(Member { user: c.user_id, device: c.device_id })
}

/// Checks an uploaded key package; returns its suite.
pub fn check_key_package(bytes: &[u8], owner: Member) -> ApiResult<u16> {
    let bad = || ApiError::new(ErrorCode::InvalidIdentity, "A key package is malformed or belongs to another device.");
    let MlsMessageBodyIn::KeyPackage(kp) = MlsMessageIn::tls_deserialize_exact(bytes).map_err(|_| bad())?.extract() else {
        return Err(bad());
    };
    let kp = kp.validate(&RustCrypto::default(), openmls::prelude::ProtocolVersion::Mls10).map_err(|_| bad())?;
    if !kp.life_time().has_acceptable_range() || leaf_member(kp.leaf_node()).ok() != Some(owner) {
        return Err(bad());
    }
    Ok(kp.ciphersuite() as u16)
}

struct ServerSigner<'a>(&'a ed25519_dalek::SigningKey);

impl Signer for ServerSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(ed25519_dalek::Signer::sign(self.0, payload).to_bytes().to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}
