//! A device reduced to its socket, for load and for abuse: frames in and out, no encryption, no store.

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use sc_e2ee::group::Crypto;
use sc_engine::account::{self, Prepared};
use sc_engine::api::Api;
use sc_protocol::frame::{ClientFrame, Encoding, SUBPROTOCOL_MSGPACK, ServerFrame};
use sc_protocol::rest::SendMessage;
use sc_protocol::{Blob, ConversationId, TempId};
use std::net::SocketAddr;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// A connection to the gateway.
pub type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// Registers an account of its own, with real keys, and answers its access token.
pub async fn account(addr: SocketAddr, name: &str) -> Result<String> {
    let api = Api::new(&format!("http://{addr}"))?;
    let prepared = Prepared::account(&Crypto::default(), &api, name).await?;
    Ok(account::register(&api, &prepared, &crate::password(name), "raw").await?.access_token)
}

/// Opens a connection; nothing was read from it yet.
pub async fn open(addr: SocketAddr, token: &str) -> Result<Socket> {
    let mut request = format!("ws://{addr}/v1/gateway").into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    request.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL_MSGPACK.parse()?);
    Ok(tokio_tungstenite::connect_async(request).await?.0)
}

/// Opens a connection and catches up from the beginning; what came before the end of that is answered.
pub async fn connect(addr: SocketAddr, token: &str) -> Result<(Socket, Vec<ServerFrame>)> {
    let mut socket = open(addr, token).await?;
    send(&mut socket, &ClientFrame::Sync { cursors: Vec::new(), done: true }).await?;
    let mut missed = Vec::new();
    loop {
        match next(&mut socket).await? {
            ServerFrame::CaughtUp {} => return Ok((socket, missed)),
            other => missed.push(other),
        }
    }
}

/// The next frame.
pub async fn next(socket: &mut Socket) -> Result<ServerFrame> {
    loop {
        match socket.next().await.context("the server closed the connection")?? {
            Message::Binary(b) => return Ok(Encoding::MsgPack.decode(&b)?),
            Message::Close(f) => bail!("closed: {f:?}"),
            _ => {}
        }
    }
}

/// Sends a frame.
pub async fn send(socket: &mut Socket, frame: &ClientFrame) -> Result<()> {
    Ok(socket.send(Message::binary(Encoding::MsgPack.encode(frame)?)).await?)
}

/// A message of `bytes` bytes that nobody can decrypt.
#[must_use]
pub fn message(id: ConversationId, epoch: u64, request_id: u64, bytes: usize) -> ClientFrame {
    let payload = Blob::from(vec![0x5a; bytes]);
    ClientFrame::SendMessage {
        request_id,
        message: SendMessage { conversation_id: id, temp_id: TempId::generate(), epoch, generation: 0, payload },
    }
}
