//! What devices say to each other about a call: CBOR inside an encrypted message, bounded when it is read.

use crate::port::FailCause;
use sc_protocol::CallId;
use serde::{Deserialize, Serialize};

/// Bytes of a session description.
pub const SDP_BYTES: usize = 16 * 1024;
/// Candidates in one signal.
pub const CANDIDATES: usize = 32;
/// Bytes of one candidate.
pub const CANDIDATE_BYTES: usize = 512;

/// What cannot be read or written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalError {
    /// No signal of this version.
    #[error("the call signal cannot be read")]
    Malformed,
    /// Longer than allowed.
    #[error("the call signal is longer than allowed")]
    TooLong,
}

/// Why a call is over, as the device says that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Somebody hung up.
    HungUp,
    /// The caller gave up before an answer.
    Cancelled,
    /// The one who is called does not want it.
    Declined,
    /// The one who is called is in another call.
    Busy,
    /// Nobody answered.
    NoAnswer,
    /// It could not be carried.
    Failed(FailCause),
}

/// What devices say to each other about a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// A call begins; every device of the other person rings.
    Offer {
        /// The call.
        call: CallId,
        /// Session description.
        sdp: String,
        /// The caller shows themselves.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        video: bool,
    },
    /// A device takes the call; the first one in the log has it.
    Answer {
        /// The call.
        call: CallId,
        /// Session description.
        sdp: String,
    },
    /// More addresses.
    Candidates {
        /// The call.
        call: CallId,
        /// Candidate attributes.
        list: Vec<String>,
    },
    /// The caller looks for a new path.
    Restart {
        /// The call.
        call: CallId,
        /// Session description.
        sdp: String,
    },
    /// The answer to [`Signal::Restart`].
    Restarted {
        /// The call.
        call: CallId,
        /// Session description.
        sdp: String,
    },
    /// The one who was called asks the caller for a new path.
    Renew {
        /// The call.
        call: CallId,
    },
    /// The call is over.
    End {
        /// The call.
        call: CallId,
        /// Why.
        reason: EndReason,
    },
}

impl Signal {
    /// The call it is about.
    #[must_use]
    pub fn call(&self) -> CallId {
        match self {
            Self::Offer { call, .. }
            | Self::Answer { call, .. }
            | Self::Candidates { call, .. }
            | Self::Restart { call, .. }
            | Self::Restarted { call, .. }
            | Self::Renew { call }
            | Self::End { call, .. } => *call,
        }
    }

    /// CBOR.
    pub fn encode(&self) -> Result<Vec<u8>, SignalError> {
        self.check()?;
        let mut out = Vec::new();
        ciborium::into_writer(self, &mut out).map_err(|_| SignalError::Malformed)?;
        Ok(out)
    }

    /// Reads what another device wrote; limits are checked here, once.
    pub fn decode(bytes: &[u8]) -> Result<Self, SignalError> {
        const DEPTH: usize = 8;
        let signal: Self = ciborium::de::from_reader_with_recursion_limit(bytes, DEPTH).map_err(|_| SignalError::Malformed)?;
        signal.check()?;
        Ok(signal)
    }

    fn check(&self) -> Result<(), SignalError> {
        let fits = match self {
            Self::Offer { sdp, .. } | Self::Answer { sdp, .. } | Self::Restart { sdp, .. } | Self::Restarted { sdp, .. } => {
                sdp.len() <= SDP_BYTES
            }
            Self::Candidates { list, .. } => list.len() <= CANDIDATES && list.iter().all(|c| c.len() <= CANDIDATE_BYTES),
            Self::Renew { .. } | Self::End { .. } => true,
        };
        if fits { Ok(()) } else { Err(SignalError::TooLong) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sc_protocol::TempId;

    fn call() -> CallId {
        CallId::from_slice(&[7; 16]).unwrap()
    }

    #[test]
    fn the_encoding_is_pinned() {
        let hex = |s: Signal| s.encode().unwrap().iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(Signal::Offer { call: call(), sdp: "v=0".into(), video: false }),
            "a1656f66666572a26463616c6c50070707070707070707070707070707076373647063763d30"
        );
        assert_eq!(
            hex(Signal::Offer { call: call(), sdp: "v=0".into(), video: true }),
            "a1656f66666572a36463616c6c50070707070707070707070707070707076373647063763d3065766964656ff5"
        );
        assert_eq!(
            hex(Signal::End { call: call(), reason: EndReason::Failed(FailCause::NoPath) }),
            "a163656e64a26463616c6c500707070707070707070707070707070766726561736f6ea1666661696c6564676e6f5f70617468"
        );
    }

    #[test]
    fn what_is_too_long_is_refused_on_both_sides() {
        let long = Signal::Answer { call: call(), sdp: "x".repeat(SDP_BYTES + 1) };
        assert_eq!(long.encode(), Err(SignalError::TooLong));
        let mut bytes = Vec::new();
        ciborium::into_writer(&long, &mut bytes).unwrap();
        assert_eq!(Signal::decode(&bytes), Err(SignalError::TooLong));
        let many = Signal::Candidates { call: call(), list: vec!["c".into(); CANDIDATES + 1] };
        assert_eq!(many.encode(), Err(SignalError::TooLong));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_nothing_worse(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Signal::decode(&bytes);
        }

        #[test]
        fn what_is_written_is_read(sdp in ".{0,200}", n in any::<u8>()) {
            let call = CallId(TempId::generate().0);
            let all = [
                Signal::Offer { call, sdp: sdp.clone(), video: n % 2 == 0 },
                Signal::Candidates { call, list: vec![sdp.clone(); usize::from(n % 4)] },
                Signal::Renew { call },
                Signal::End { call, reason: EndReason::Busy },
            ];
            for s in all {
                prop_assert_eq!(Signal::decode(&s.encode().unwrap()).unwrap(), s);
            }
        }
    }
}
