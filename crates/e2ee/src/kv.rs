//! openmls storage over any key-value store that belongs to an open transaction.
//!
//! Values are CBOR. Keys are (scope, label, key): the scope is the group, or empty for what belongs to no group, so that
//! everything of a group can be deleted in one go (openmls itself leaves rows behind). openmls makes several writes per
//! call and opens no transaction; the store behind [`KvStore`] must be one.

use openmls_traits::storage::{CURRENT_VERSION, StorageProvider, traits};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A key: (scope, label, key).
pub type KvKey = (Vec<u8>, String, Vec<u8>);

/// A failure of the store or of the encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MLS state: {0}")]
pub struct KvError(pub String);

/// The rows, inside an open transaction.
pub trait KvStore {
    /// Reads one value.
    fn get(&self, scope: &[u8], label: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;
    /// Writes one value, replacing what was there.
    fn put(&self, scope: &[u8], label: &str, key: &[u8], value: &[u8]) -> Result<(), KvError>;
    /// Deletes one value; no error when there is none.
    fn delete(&self, scope: &[u8], label: &str, key: &[u8]) -> Result<(), KvError>;
    /// Deletes everything of a scope.
    fn delete_scope(&self, scope: &[u8]) -> Result<(), KvError>;
}

/// A store in memory: for an external commit, which openmls cannot take back, until the server has accepted it.
#[derive(Debug, Default)]
pub struct ScratchStore {
    rows: RefCell<BTreeMap<KvKey, Vec<u8>>>,
}

impl ScratchStore {
    /// All rows, encoded, to be kept until they can be [installed](ScratchStore::install).
    pub fn to_bytes(&self) -> Result<Vec<u8>, KvError> {
        encode(&*self.rows.borrow())
    }

    /// From [`ScratchStore::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KvError> {
        Ok(Self { rows: RefCell::new(decode(bytes)?) })
    }

    /// Copies all rows into a store.
    pub fn install(&self, store: &impl KvStore) -> Result<(), KvError> {
        for ((scope, label, key), value) in &*self.rows.borrow() {
            store.put(scope, label, key, value)?;
        }
        Ok(())
    }
}

impl KvStore for ScratchStore {
    fn get(&self, scope: &[u8], label: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.rows.borrow().get(&(scope.to_vec(), label.to_owned(), key.to_vec())).cloned())
    }

    fn put(&self, scope: &[u8], label: &str, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.rows.borrow_mut().insert((scope.to_vec(), label.to_owned(), key.to_vec()), value.to_vec());
        Ok(())
    }

    fn delete(&self, scope: &[u8], label: &str, key: &[u8]) -> Result<(), KvError> {
        self.rows.borrow_mut().remove(&(scope.to_vec(), label.to_owned(), key.to_vec()));
        Ok(())
    }

    fn delete_scope(&self, scope: &[u8]) -> Result<(), KvError> {
        self.rows.borrow_mut().retain(|(s, _, _), _| s != scope);
        Ok(())
    }
}

fn encode<T: Serialize + ?Sized>(v: &T) -> Result<Vec<u8>, KvError> {
    let mut out = Vec::new();
    ciborium::into_writer(v, &mut out).map_err(|e| KvError(e.to_string()))?;
    Ok(out)
}

fn decode<T: DeserializeOwned>(b: &[u8]) -> Result<T, KvError> {
    ciborium::from_reader(b).map_err(|e| KvError(e.to_string()))
}

/// The scope of a group's rows.
pub fn scope<G: Serialize>(group_id: &G) -> Result<Vec<u8>, KvError> {
    encode(group_id)
}

/// openmls storage over a [`KvStore`].
#[derive(Debug)]
pub struct KvStorage<K>(pub K);

impl<K: KvStore> KvStorage<K> {
    fn write<V: Serialize + ?Sized>(&self, scope: &[u8], label: &str, key: &[u8], value: &V) -> Result<(), KvError> {
        self.0.put(scope, label, key, &encode(value)?)
    }

    fn read<V: DeserializeOwned>(&self, scope: &[u8], label: &str, key: &[u8]) -> Result<Option<V>, KvError> {
        self.0.get(scope, label, key)?.map(|b| decode(&b)).transpose()
    }

    fn list(&self, scope: &[u8], label: &str) -> Result<Vec<Vec<u8>>, KvError> {
        Ok(self.read(scope, label, &[])?.unwrap_or_default())
    }
}

#[rustfmt::skip]
impl<K: KvStore> StorageProvider<CURRENT_VERSION> for KvStorage<K> {
    type Error = KvError;

    fn write_mls_join_config<GroupId: traits::GroupId<CURRENT_VERSION>, MlsGroupJoinConfig: traits::MlsGroupJoinConfig<CURRENT_VERSION>>(&self, group_id: &GroupId, config: &MlsGroupJoinConfig) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "MlsGroupJoinConfig", &[], config)
    }

    fn append_own_leaf_node<GroupId: traits::GroupId<CURRENT_VERSION>, LeafNode: traits::LeafNode<CURRENT_VERSION>>(&self, group_id: &GroupId, leaf_node: &LeafNode) -> Result<(), KvError> {
        let s = scope(group_id)?;
        let mut list = self.list(&s, "OwnLeafNodes")?;
        list.push(encode(leaf_node)?);
        self.write(&s, "OwnLeafNodes", &[], &list)
    }

    fn queue_proposal<GroupId: traits::GroupId<CURRENT_VERSION>, ProposalRef: traits::ProposalRef<CURRENT_VERSION>, QueuedProposal: traits::QueuedProposal<CURRENT_VERSION>>(&self, group_id: &GroupId, proposal_ref: &ProposalRef, proposal: &QueuedProposal) -> Result<(), KvError> {
        let s = scope(group_id)?;
        let reference = encode(proposal_ref)?;
        self.write(&s, "QueuedProposal", &reference, proposal)?;
        let mut list = self.list(&s, "ProposalQueueRefs")?;
        if !list.contains(&reference) {
            list.push(reference);
            self.write(&s, "ProposalQueueRefs", &[], &list)?;
        }
        Ok(())
    }

    fn write_tree<GroupId: traits::GroupId<CURRENT_VERSION>, TreeSync: traits::TreeSync<CURRENT_VERSION>>(&self, group_id: &GroupId, tree: &TreeSync) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "Tree", &[], tree)
    }

    fn write_interim_transcript_hash<GroupId: traits::GroupId<CURRENT_VERSION>, InterimTranscriptHash: traits::InterimTranscriptHash<CURRENT_VERSION>>(&self, group_id: &GroupId, interim_transcript_hash: &InterimTranscriptHash) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "InterimTranscriptHash", &[], interim_transcript_hash)
    }

    fn write_context<GroupId: traits::GroupId<CURRENT_VERSION>, GroupContext: traits::GroupContext<CURRENT_VERSION>>(&self, group_id: &GroupId, group_context: &GroupContext) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "GroupContext", &[], group_context)
    }

    fn write_confirmation_tag<GroupId: traits::GroupId<CURRENT_VERSION>, ConfirmationTag: traits::ConfirmationTag<CURRENT_VERSION>>(&self, group_id: &GroupId, confirmation_tag: &ConfirmationTag) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "ConfirmationTag", &[], confirmation_tag)
    }

    fn write_group_state<GroupState: traits::GroupState<CURRENT_VERSION>, GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId, group_state: &GroupState) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "GroupState", &[], group_state)
    }

    fn write_message_secrets<GroupId: traits::GroupId<CURRENT_VERSION>, MessageSecrets: traits::MessageSecrets<CURRENT_VERSION>>(&self, group_id: &GroupId, message_secrets: &MessageSecrets) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "MessageSecrets", &[], message_secrets)
    }

    fn write_resumption_psk_store<GroupId: traits::GroupId<CURRENT_VERSION>, ResumptionPskStore: traits::ResumptionPskStore<CURRENT_VERSION>>(&self, group_id: &GroupId, resumption_psk_store: &ResumptionPskStore) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "ResumptionPsk", &[], resumption_psk_store)
    }

    fn write_own_leaf_index<GroupId: traits::GroupId<CURRENT_VERSION>, LeafNodeIndex: traits::LeafNodeIndex<CURRENT_VERSION>>(&self, group_id: &GroupId, own_leaf_index: &LeafNodeIndex) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "OwnLeafIndex", &[], own_leaf_index)
    }

    fn write_group_epoch_secrets<GroupId: traits::GroupId<CURRENT_VERSION>, GroupEpochSecrets: traits::GroupEpochSecrets<CURRENT_VERSION>>(&self, group_id: &GroupId, group_epoch_secrets: &GroupEpochSecrets) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "EpochSecrets", &[], group_epoch_secrets)
    }

    fn write_signature_key_pair<SignaturePublicKey: traits::SignaturePublicKey<CURRENT_VERSION>, SignatureKeyPair: traits::SignatureKeyPair<CURRENT_VERSION>>(&self, public_key: &SignaturePublicKey, signature_key_pair: &SignatureKeyPair) -> Result<(), KvError> {
        self.write(&[], "SignatureKeyPair", &encode(public_key)?, signature_key_pair)
    }

    fn write_encryption_key_pair<EncryptionKey: traits::EncryptionKey<CURRENT_VERSION>, HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>>(&self, public_key: &EncryptionKey, key_pair: &HpkeKeyPair) -> Result<(), KvError> {
        self.write(&[], "EncryptionKeyPair", &encode(public_key)?, key_pair)
    }

    fn write_encryption_epoch_key_pairs<GroupId: traits::GroupId<CURRENT_VERSION>, EpochKey: traits::EpochKey<CURRENT_VERSION>, HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>>(&self, group_id: &GroupId, epoch: &EpochKey, leaf_index: u32, key_pairs: &[HpkeKeyPair]) -> Result<(), KvError> {
        self.write(&scope(group_id)?, "EpochKeyPairs", &encode(&(epoch, leaf_index))?, key_pairs)
    }

    fn write_key_package<HashReference: traits::HashReference<CURRENT_VERSION>, KeyPackage: traits::KeyPackage<CURRENT_VERSION>>(&self, hash_ref: &HashReference, key_package: &KeyPackage) -> Result<(), KvError> {
        self.write(&[], "KeyPackage", &encode(hash_ref)?, key_package)
    }

    fn write_psk<PskId: traits::PskId<CURRENT_VERSION>, PskBundle: traits::PskBundle<CURRENT_VERSION>>(&self, psk_id: &PskId, psk: &PskBundle) -> Result<(), KvError> {
        self.write(&[], "Psk", &encode(psk_id)?, psk)
    }

    fn mls_group_join_config<GroupId: traits::GroupId<CURRENT_VERSION>, MlsGroupJoinConfig: traits::MlsGroupJoinConfig<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Option<MlsGroupJoinConfig>, KvError> {
        self.read(&scope(group_id)?, "MlsGroupJoinConfig", &[])
    }

    fn own_leaf_nodes<GroupId: traits::GroupId<CURRENT_VERSION>, LeafNode: traits::LeafNode<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Vec<LeafNode>, KvError> {
        self.list(&scope(group_id)?, "OwnLeafNodes")?.iter().map(|b| decode(b)).collect()
    }

    fn queued_proposal_refs<GroupId: traits::GroupId<CURRENT_VERSION>, ProposalRef: traits::ProposalRef<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Vec<ProposalRef>, KvError> {
        self.list(&scope(group_id)?, "ProposalQueueRefs")?.iter().map(|b| decode(b)).collect()
    }

    fn queued_proposals<GroupId: traits::GroupId<CURRENT_VERSION>, ProposalRef: traits::ProposalRef<CURRENT_VERSION>, QueuedProposal: traits::QueuedProposal<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Vec<(ProposalRef, QueuedProposal)>, KvError> {
        let s = scope(group_id)?;
        let mut out = Vec::new();
        for r in self.list(&s, "ProposalQueueRefs")? {
            if let Some(p) = self.read(&s, "QueuedProposal", &r)? {
                out.push((decode(&r)?, p));
            }
        }
        Ok(out)
    }

    fn tree<GroupId: traits::GroupId<CURRENT_VERSION>, TreeSync: traits::TreeSync<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Option<TreeSync>, KvError> {
        self.read(&scope(group_id)?, "Tree", &[])
    }

    fn group_context<GroupId: traits::GroupId<CURRENT_VERSION>, GroupContext: traits::GroupContext<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Option<GroupContext>, KvError> {
        self.read(&scope(group_id)?, "GroupContext", &[])
    }

    fn interim_transcript_hash<GroupId: traits::GroupId<CURRENT_VERSION>, InterimTranscriptHash: traits::InterimTranscriptHash<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Option<InterimTranscriptHash>, KvError> {
        self.read(&scope(group_id)?, "InterimTranscriptHash", &[])
    }

    fn confirmation_tag<GroupId: traits::GroupId<CURRENT_VERSION>, ConfirmationTag: traits::ConfirmationTag<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Option<ConfirmationTag>, KvError> {
        self.read(&scope(group_id)?, "ConfirmationTag", &[])
    }

    fn group_state<GroupState: traits::GroupState<CURRENT_VERSION>, GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Option<GroupState>, KvError> {
        self.read(&scope(group_id)?, "GroupState", &[])
    }

    fn message_secrets<GroupId: traits::GroupId<CURRENT_VERSION>, MessageSecrets: traits::MessageSecrets<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Option<MessageSecrets>, KvError> {
        self.read(&scope(group_id)?, "MessageSecrets", &[])
    }

    fn resumption_psk_store<GroupId: traits::GroupId<CURRENT_VERSION>, ResumptionPskStore: traits::ResumptionPskStore<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Option<ResumptionPskStore>, KvError> {
        self.read(&scope(group_id)?, "ResumptionPsk", &[])
    }

    fn own_leaf_index<GroupId: traits::GroupId<CURRENT_VERSION>, LeafNodeIndex: traits::LeafNodeIndex<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Option<LeafNodeIndex>, KvError> {
        self.read(&scope(group_id)?, "OwnLeafIndex", &[])
    }

    fn group_epoch_secrets<GroupId: traits::GroupId<CURRENT_VERSION>, GroupEpochSecrets: traits::GroupEpochSecrets<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<Option<GroupEpochSecrets>, KvError> {
        self.read(&scope(group_id)?, "EpochSecrets", &[])
    }

    fn signature_key_pair<SignaturePublicKey: traits::SignaturePublicKey<CURRENT_VERSION>, SignatureKeyPair: traits::SignatureKeyPair<CURRENT_VERSION>>(&self, public_key: &SignaturePublicKey) -> Result<Option<SignatureKeyPair>, KvError> {
        self.read(&[], "SignatureKeyPair", &encode(public_key)?)
    }

    fn encryption_key_pair<HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>, EncryptionKey: traits::EncryptionKey<CURRENT_VERSION>>(&self, public_key: &EncryptionKey) -> Result<Option<HpkeKeyPair>, KvError> {
        self.read(&[], "EncryptionKeyPair", &encode(public_key)?)
    }

    fn encryption_epoch_key_pairs<GroupId: traits::GroupId<CURRENT_VERSION>, EpochKey: traits::EpochKey<CURRENT_VERSION>, HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>>(&self, group_id: &GroupId, epoch: &EpochKey, leaf_index: u32) -> Result<Vec<HpkeKeyPair>, KvError> {
        Ok(self.read(&scope(group_id)?, "EpochKeyPairs", &encode(&(epoch, leaf_index))?)?.unwrap_or_default())
    }

    fn key_package<KeyPackageRef: traits::HashReference<CURRENT_VERSION>, KeyPackage: traits::KeyPackage<CURRENT_VERSION>>(&self, hash_ref: &KeyPackageRef) -> Result<Option<KeyPackage>, KvError> {
        self.read(&[], "KeyPackage", &encode(hash_ref)?)
    }

    fn psk<PskBundle: traits::PskBundle<CURRENT_VERSION>, PskId: traits::PskId<CURRENT_VERSION>>(&self, psk_id: &PskId) -> Result<Option<PskBundle>, KvError> {
        self.read(&[], "Psk", &encode(psk_id)?)
    }

    fn remove_proposal<GroupId: traits::GroupId<CURRENT_VERSION>, ProposalRef: traits::ProposalRef<CURRENT_VERSION>>(&self, group_id: &GroupId, proposal_ref: &ProposalRef) -> Result<(), KvError> {
        let s = scope(group_id)?;
        let reference = encode(proposal_ref)?;
        let mut list = self.list(&s, "ProposalQueueRefs")?;
        list.retain(|r| *r != reference);
        self.write(&s, "ProposalQueueRefs", &[], &list)?;
        self.0.delete(&s, "QueuedProposal", &reference)
    }

    fn delete_own_leaf_nodes<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "OwnLeafNodes", &[])
    }

    fn delete_group_config<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "MlsGroupJoinConfig", &[])
    }

    fn delete_tree<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "Tree", &[])
    }

    fn delete_confirmation_tag<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "ConfirmationTag", &[])
    }

    fn delete_group_state<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "GroupState", &[])
    }

    fn delete_context<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "GroupContext", &[])
    }

    fn delete_interim_transcript_hash<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "InterimTranscriptHash", &[])
    }

    fn delete_message_secrets<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "MessageSecrets", &[])
    }

    fn delete_all_resumption_psk_secrets<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "ResumptionPsk", &[])
    }

    fn delete_own_leaf_index<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "OwnLeafIndex", &[])
    }

    fn delete_group_epoch_secrets<GroupId: traits::GroupId<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "EpochSecrets", &[])
    }

    fn clear_proposal_queue<GroupId: traits::GroupId<CURRENT_VERSION>, ProposalRef: traits::ProposalRef<CURRENT_VERSION>>(&self, group_id: &GroupId) -> Result<(), KvError> {
        let s = scope(group_id)?;
        for r in self.list(&s, "ProposalQueueRefs")? {
            self.0.delete(&s, "QueuedProposal", &r)?;
        }
        self.0.delete(&s, "ProposalQueueRefs", &[])
    }

    fn delete_signature_key_pair<SignaturePublicKey: traits::SignaturePublicKey<CURRENT_VERSION>>(&self, public_key: &SignaturePublicKey) -> Result<(), KvError> {
        self.0.delete(&[], "SignatureKeyPair", &encode(public_key)?)
    }

    fn delete_encryption_key_pair<EncryptionKey: traits::EncryptionKey<CURRENT_VERSION>>(&self, public_key: &EncryptionKey) -> Result<(), KvError> {
        self.0.delete(&[], "EncryptionKeyPair", &encode(public_key)?)
    }

    fn delete_encryption_epoch_key_pairs<GroupId: traits::GroupId<CURRENT_VERSION>, EpochKey: traits::EpochKey<CURRENT_VERSION>>(&self, group_id: &GroupId, epoch: &EpochKey, leaf_index: u32) -> Result<(), KvError> {
        self.0.delete(&scope(group_id)?, "EpochKeyPairs", &encode(&(epoch, leaf_index))?)
    }

    fn delete_key_package<KeyPackageRef: traits::HashReference<CURRENT_VERSION>>(&self, hash_ref: &KeyPackageRef) -> Result<(), KvError> {
        self.0.delete(&[], "KeyPackage", &encode(hash_ref)?)
    }

    fn delete_psk<PskKey: traits::PskId<CURRENT_VERSION>>(&self, psk_id: &PskKey) -> Result<(), KvError> {
        self.0.delete(&[], "Psk", &encode(psk_id)?)
    }
}
