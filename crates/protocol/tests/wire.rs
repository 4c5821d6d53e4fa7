//! Every wire type survives both encodings, and its JSON form is pinned.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use sc_protocol::frame::{ClientFrame, Encoding, Envelope, EnvelopeKind, ServerFrame};
use sc_protocol::rest::SendMessage;
use sc_protocol::{Blob, ConversationId, DeviceId, ErrorBody, ErrorCode, TempId, UserId};

fn id(n: u8) -> uuid::Uuid {
    uuid::Uuid::from_bytes([n; 16])
}

#[test]
fn a_send_frame_is_the_same_in_json_and_messagepack() {
    let frame = ClientFrame::SendMessage {
        request_id: 7,
        message: SendMessage {
            conversation_id: ConversationId(id(1)),
            temp_id: TempId(id(2)),
            epoch: 3,
            generation: 0,
            payload: Blob::from(vec![0xde, 0xad]),
        },
    };
    let json = String::from_utf8(Encoding::Json.encode(&frame).unwrap()).unwrap();
    assert_eq!(
        json,
        r#"{"type":"send_message","request_id":7,"conversation_id":"01010101-0101-0101-0101-010101010101","temp_id":"02020202-0202-0202-0202-020202020202","epoch":3,"generation":0,"payload":"3q0="}"#
    );
    for enc in [Encoding::Json, Encoding::MsgPack] {
        let back: ClientFrame = enc.decode(&enc.encode(&frame).unwrap()).unwrap();
        let ClientFrame::SendMessage { request_id: 7, message } = back else { panic!("{back:?}") };
        assert_eq!(message.payload.as_slice(), [0xde, 0xad]);
        assert_eq!(message.temp_id, TempId(id(2)));
    }
}

#[test]
fn an_envelope_is_the_same_in_json_and_messagepack() {
    let env = Envelope {
        conversation_id: ConversationId(id(1)),
        seq: u64::MAX,
        kind: EnvelopeKind::Welcome,
        generation: 1,
        epoch: 9,
        sender_user: UserId(id(3)),
        sender_device: DeviceId(id(4)),
        temp_id: TempId(id(5)),
        sent_at: 1_700_000_000_000,
        payload: Blob::from(vec![1; 300]),
        ratchet_tree: Some(Blob::from(vec![2; 3])),
    };
    for enc in [Encoding::Json, Encoding::MsgPack] {
        let back: ServerFrame = enc.decode(&enc.encode(&ServerFrame::NewMessage(env.clone())).unwrap()).unwrap();
        let ServerFrame::NewMessage(back) = back else { panic!("{back:?}") };
        assert_eq!(back, env);
    }
}

#[test]
fn an_unknown_error_code_is_read_as_unknown_and_not_retried() {
    let e: ErrorBody = serde_json::from_str(r#"{"code":"FROM_THE_FUTURE","message":"x"}"#).unwrap();
    assert_eq!(e.code, ErrorCode::Unknown);
    assert!(!e.code.is_retryable());
}

#[test]
fn codes_are_unique_and_read_back() {
    let mut seen = std::collections::HashSet::new();
    for code in ErrorCode::ALL {
        assert!(seen.insert(code.as_str()), "{code} twice");
        let back: ErrorCode = serde_json::from_value(serde_json::json!(code.as_str())).unwrap();
        assert_eq!(back, *code);
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for len in 0..400usize {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state & 0xff) as u8
            })
            .collect();
        for enc in [Encoding::Json, Encoding::MsgPack] {
            let _ = enc.decode::<ClientFrame>(&bytes);
            let _ = enc.decode::<ServerFrame>(&bytes);
        }
    }
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert!(Encoding::Json.decode::<ClientFrame>(deep.as_bytes()).is_err());
    assert!(Encoding::MsgPack.decode::<ClientFrame>(&vec![0x91; 200_000]).is_err());
}
