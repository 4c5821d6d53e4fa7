//! Typed identifiers. Each is a UUIDv7: sortable by time of creation, 16 bytes in binary formats, text in JSON.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

struct UuidVisitor;

impl<'de> Visitor<'de> for UuidVisitor {
    type Value = Uuid;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a UUID as text or 16 bytes")
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Uuid, E> {
        Uuid::parse_str(v).map_err(|_| E::custom("not a UUID"))
    }

    fn visit_bytes<E: Error>(self, v: &[u8]) -> Result<Uuid, E> {
        Uuid::from_slice(v).map_err(|_| E::custom("a UUID has 16 bytes"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Uuid, A::Error> {
        let mut out = [0u8; 16];
        for b in &mut out {
            *b = seq.next_element()?.ok_or_else(|| A::Error::custom("a UUID has 16 bytes"))?;
        }
        Ok(Uuid::from_bytes(out))
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh identifier (UUIDv7).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The 16 bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// From exactly 16 bytes.
            #[must_use]
            pub fn from_slice(b: &[u8]) -> Option<Self> {
                Uuid::from_slice(b).ok().map(Self)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(s).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() {
                    s.collect_str(&self.0)
                } else {
                    s.serialize_bytes(self.0.as_bytes())
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_any(UuidVisitor).map(Self)
            }
        }
    };
}

id!(
    /// An account.
    UserId
);
id!(
    /// One device of an account; one leaf in each of its groups.
    DeviceId
);
id!(
    /// A conversation. Not the MLS group id: that changes when a session is reset for everyone.
    ConversationId
);
id!(
    /// The client's own id of a thing it sends; makes a retry idempotent for ever.
    TempId
);
id!(
    /// A call, given by the device that makes it.
    CallId
);
id!(
    /// A room. That of a conversation has the conversation's id.
    RoomId
);
