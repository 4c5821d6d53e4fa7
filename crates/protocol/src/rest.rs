//! Bodies of the `/v1` routes. `docs/protocol.md` lists the routes; each type here names its own.

use crate::frame::Envelope;
use crate::{Blob, ConversationId, DeviceId, TempId, UnixMillis, UserId};
use serde::{Deserialize, Serialize};

/// `POST /v1/auth/register/start`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterStart {
    /// The wanted name; see [`crate::limits::username_is_valid`].
    pub username: String,
    /// OPAQUE registration request.
    pub request: Blob,
}

/// Answer of `register/start` and `login/start`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthChallenge {
    /// OPAQUE registration response or credential response.
    pub response: Blob,
    /// With `login/start`: names the login in `login/finish`; valid for 60 s, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_id: Option<String>,
}

/// A device as it introduces itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewDevice {
    /// Chosen by the device.
    pub device_id: DeviceId,
    /// What its owner sees in the list of devices.
    pub name: String,
    /// Ed25519 public key, 32 bytes: the MLS leaf key.
    pub signature_key: Blob,
    /// X25519 public key, 32 bytes: to hand the identity over when it is linked.
    pub link_key: Blob,
}

/// `POST /v1/auth/register/finish`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterFinish {
    /// As in `register/start`.
    pub username: String,
    /// OPAQUE registration upload.
    pub upload: Blob,
    /// Chosen by the client.
    pub user_id: UserId,
    /// Account identity key: Ed25519, 32 bytes.
    pub identity_key: Blob,
    /// The first device.
    pub device: NewDevice,
    /// Version 1 of the signed device list (CBOR, `e2ee::identity`).
    pub device_list: Blob,
    /// First key packages, a last resort for every suite among them: whoever can be found can be written to.
    pub key_packages: Vec<KeyPackageUpload>,
}

/// `POST /v1/auth/login/start`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginStart {
    /// The account.
    pub username: String,
    /// OPAQUE credential request.
    pub request: Blob,
}

/// `POST /v1/auth/login/finish`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginFinish {
    /// From the challenge.
    pub login_id: String,
    /// OPAQUE credential finalization.
    pub finalization: Blob,
    /// The device that logs in. A known one is recognised by id and key; an unknown one waits for approval.
    pub device: NewDevice,
    /// Ed25519 signature by the device key over [`login_proof`]: the device has its key.
    pub proof: Blob,
}

/// What a device signs to prove at login that it holds its key.
#[must_use]
pub fn login_proof(login_id: &str, device: DeviceId) -> Vec<u8> {
    let mut out = b"SecureConnect login v1\0".to_vec();
    out.extend_from_slice(device.as_bytes());
    out.extend_from_slice(login_id.as_bytes());
    out
}

/// Tokens, the answer of every successful authentication.
#[derive(Clone, Serialize, Deserialize)]
pub struct Session {
    /// The account.
    pub user_id: UserId,
    /// The device the tokens belong to.
    pub device_id: DeviceId,
    /// Its username, as registered.
    pub username: String,
    /// JWT, valid for `expires_in` seconds.
    pub access_token: String,
    /// Opaque, valid once; `POST /v1/auth/refresh` exchanges it.
    pub refresh_token: String,
    /// Seconds.
    pub expires_in: u64,
    /// True while the device waits for another device to approve it.
    pub pending: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({}, {})", self.user_id, self.device_id)
    }
}

/// `POST /v1/auth/refresh`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Refresh {
    /// The current refresh token; spent by this call.
    pub refresh_token: String,
}

/// One device of an account, as its owner sees it: `GET /v1/devices`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Its id.
    pub device_id: DeviceId,
    /// Its name.
    pub name: String,
    /// Ed25519 public key.
    pub signature_key: Blob,
    /// X25519 public key for linking.
    pub link_key: Blob,
    /// True while it waits for approval.
    pub pending: bool,
    /// When it was first seen.
    pub created_at: UnixMillis,
    /// When it was last connected.
    pub last_seen: UnixMillis,
}

/// `POST /v1/devices/{id}/approve`, by a linked device of the same account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApproveDevice {
    /// The next version of the signed device list, with the new device in it.
    pub device_list: Blob,
    /// The account identity, encrypted to the new device's link key.
    pub sealed_identity: Blob,
}

/// `PUT /v1/devices/list`, to revoke a device: the next version of the signed list without it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutDeviceList {
    /// Signed list (CBOR).
    pub device_list: Blob,
}

/// `GET /v1/devices/self`: what a pending device polls.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnDevice {
    /// True while it waits.
    pub pending: bool,
    /// Once approved: the identity sealed to this device, until it has been confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_identity: Option<Blob>,
}

/// `POST /v1/identity/reset`: a new account identity (reset level 3). Needs a login younger than five minutes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResetIdentity {
    /// The new account identity key.
    pub identity_key: Blob,
    /// The new list: this device alone, version one above the last.
    pub device_list: Blob,
    /// The device's new keys.
    pub device: NewDevice,
    /// Its first key packages, as at registration.
    pub key_packages: Vec<KeyPackageUpload>,
}

/// An account as others see it: `GET /v1/users/{id}`, `GET /v1/users/by-name/{username}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserInfo {
    /// The account.
    pub user_id: UserId,
    /// Its name.
    pub username: String,
    /// Account identity key. The client pins it; the server cannot change it unseen.
    pub identity_key: Blob,
    /// Newest signed device list.
    pub device_list: Blob,
}

/// One key package for the server to hand out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyPackageUpload {
    /// MLS ciphersuite code point.
    pub suite: u16,
    /// TLS-encoded MLS KeyPackage.
    pub key_package: Blob,
    /// Handed out again and again when no other is left.
    pub last_resort: bool,
}

/// `POST /v1/key-packages`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UploadKeyPackages {
    /// At most 110 of them.
    pub key_packages: Vec<KeyPackageUpload>,
    /// Throw away what was uploaded before (after a new identity).
    #[serde(default)]
    pub replace: bool,
}

/// Answer of `POST` and `GET /v1/key-packages`: how many one-time packages are left, per suite.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyPackageCount {
    /// `(suite, count)`.
    pub counts: Vec<(u16, u32)>,
}

/// `POST /v1/users/{id}/key-packages/claim`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimKeyPackages {
    /// MLS ciphersuite code point.
    pub suite: u16,
}

/// One claimed key package.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimedKeyPackage {
    /// Whose it is.
    pub device_id: DeviceId,
    /// TLS-encoded MLS KeyPackage; the client verifies certificate and device list.
    pub key_package: Blob,
}

/// Answer of a claim: one package for each linked device that has one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimedKeyPackages {
    /// The account, with the device list the packages must agree with.
    pub user: UserInfo,
    /// The packages.
    pub key_packages: Vec<ClaimedKeyPackage>,
    /// Devices without a package: they join by themselves (external commit) when they are next online.
    pub without: Vec<DeviceId>,
}

/// Direct (two people) or group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// Two people, one per pair.
    Direct,
    /// Any number of people.
    Group,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Role {
    /// Reads and writes.
    Member,
    /// Adds and removes members too.
    Admin,
    /// Changes roles too; there is one.
    Owner,
}

/// The public state of a new MLS group at epoch 0: one leaf, the creator's device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewGroup {
    /// TLS-encoded MlsMessage with the GroupInfo, without ratchet tree.
    pub group_info: Blob,
    /// TLS-encoded ratchet tree.
    pub ratchet_tree: Blob,
}

/// `POST /v1/conversations` and, with `peer`, `POST /v1/conversations/direct`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateConversation {
    /// Chosen by the client.
    pub conversation_id: ConversationId,
    /// With `direct`: the other person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<UserId>,
    /// The group.
    pub group: NewGroup,
}

/// Answer of both create routes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreatedConversation {
    /// The one that was made, or the one the pair already had.
    pub conversation: ConversationInfo,
    /// False when it was there before (direct conversations are idempotent): the new group is thrown away.
    pub created: bool,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The account.
    pub user_id: UserId,
    /// Its name.
    pub username: String,
    /// What it may do.
    pub role: Role,
    /// Newest seq it has read.
    pub read_seq: u64,
}

/// A conversation as the server knows it: `GET /v1/conversations/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationInfo {
    /// Its id.
    pub conversation_id: ConversationId,
    /// Direct or group.
    pub kind: ConversationKind,
    /// MLS group id of the current generation.
    pub group_id: Blob,
    /// Current epoch.
    pub epoch: u64,
    /// Newest seq; 0 when the log is empty.
    pub last_seq: u64,
    /// True when the asking device has a leaf; if not, it joins by external commit.
    pub device_in_group: bool,
    /// The roster.
    pub members: Vec<MemberInfo>,
    /// When the newest envelope was stored.
    pub last_activity: UnixMillis,
}

/// `GET /v1/conversations`: a page, newest activity first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConversationPage {
    /// The page.
    pub conversations: Vec<ConversationInfo>,
    /// Pass as `cursor` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// All conversations of the account.
    pub total: u64,
}

/// `POST /v1/conversations/{id}/messages`, and the content of a `send_message` frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SendMessage {
    /// Where to.
    pub conversation_id: ConversationId,
    /// The client's id; a retry with the same one gets the same answer.
    pub temp_id: TempId,
    /// Epoch the payload is encrypted in.
    pub epoch: u64,
    /// Generation of the group (counts resets).
    pub generation: u32,
    /// TLS-encoded MLS PrivateMessage.
    pub payload: Blob,
}

/// Answer to a stored message or commit: it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Where.
    pub conversation_id: ConversationId,
    /// The client's id.
    pub temp_id: TempId,
    /// Its place in the conversation.
    pub seq: u64,
    /// When the server stored it.
    pub sent_at: UnixMillis,
}

/// `POST /v1/conversations/{id}/commits`: compare-and-set on (generation, epoch).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PostCommit {
    /// The client's id of the operation.
    pub temp_id: TempId,
    /// Generation of the group.
    pub generation: u32,
    /// The epoch the commit starts from.
    pub epoch: u64,
    /// TLS-encoded PublicMessage with the commit.
    pub commit: Blob,
    /// TLS-encoded Welcome, when devices are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub welcome: Option<Blob>,
    /// GroupInfo of the new epoch, without ratchet tree.
    pub group_info: Blob,
    /// People who become members by it.
    #[serde(default)]
    pub add_users: Vec<UserId>,
    /// People who stop being members by it.
    #[serde(default)]
    pub remove_users: Vec<UserId>,
}

/// `POST /v1/conversations/{id}/reset`: a new generation of the group (reset level 2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResetConversation {
    /// The client's id of the operation.
    pub temp_id: TempId,
    /// The generation to be replaced.
    pub generation: u32,
    /// Its epoch as the client knows it.
    pub epoch: u64,
    /// The new group, epoch 0, the initiator alone.
    pub group: NewGroup,
    /// Announcement signed by the initiator's device (CBOR, `e2ee::reset`); others verify it.
    pub announcement: Blob,
}

/// `GET /v1/conversations/{id}/group`: what an external commit needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupState {
    /// Generation of the group.
    pub generation: u32,
    /// Current epoch.
    pub epoch: u64,
    /// Newest seq.
    pub seq: u64,
    /// GroupInfo of the epoch (TLS, MlsMessage).
    pub group_info: Blob,
    /// Ratchet tree of the epoch (TLS).
    pub ratchet_tree: Blob,
}

/// `GET /v1/conversations/{id}/messages`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnvelopePage {
    /// In ascending order of `seq`.
    pub envelopes: Vec<Envelope>,
    /// Newest seq of the conversation.
    pub last_seq: u64,
}

/// `PUT /v1/conversations/{id}/members/{user}/role`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutRole {
    /// The new role. `OWNER` hands the ownership over.
    pub role: Role,
}

/// `GET /health/live`, `GET /health/ready`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// `healthy` or `degraded`.
    pub status: String,
    /// `(component, state)`.
    pub components: std::collections::BTreeMap<String, String>,
    /// Version of the server.
    pub version: String,
}

/// `GET /v1/server`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Version of the server.
    pub version: String,
    /// Ed25519 key with which the server signs Remove proposals (a member left, a device was revoked).
    pub external_sender: Blob,
    /// New accounts may be made.
    pub registration: bool,
}

/// `POST /v1/key-packages` was understood, or any other route without content.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Empty {}

/// A STUN or TURN server (RFC 7064, RFC 7065).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// Its addresses.
    pub urls: Vec<String>,
    /// For TURN; empty for STUN.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// For TURN; empty for STUN.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub credential: String,
}

impl std::fmt::Debug for IceServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IceServer({:?})", self.urls)
    }
}

/// `GET /v1/calls/ice-servers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServers {
    /// Those a call may use.
    pub ice_servers: Vec<IceServer>,
    /// The credentials hold this long, in seconds.
    pub expires_in: u64,
}
