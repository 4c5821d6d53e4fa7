//! Wrong input at every door: a clear error with a stable code, no panic, no hang.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::Result;
use futures_util::{SinkExt as _, StreamExt as _};
use sc_testkit::{Person, World, password};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

#[tokio::test(flavor = "multi_thread")]
async fn wrong_names_and_passwords_say_what_is_wrong() -> Result<()> {
    let world = World::new().await?;
    let alice = world.person("alice").await?;
    let p = Person::open(&world.dir.path().join("new"), "new").await?;
    let code = |r: Result<(), sc_engine::EngineError>| r.unwrap_err().code();
    assert_eq!(code(p.engine.register(&world.url(), "alice", "long enough", "x").await), "USERNAME_TAKEN");
    assert_eq!(code(p.engine.register(&world.url(), "Al", "long enough", "x").await), "BAD_USERNAME");
    assert_eq!(code(p.engine.register(&world.url(), "carol", "short", "x").await), "WEAK_PASSWORD");
    assert_eq!(code(p.engine.register("ftp://x", "carol", "long enough", "x").await), "BAD_SERVER");
    assert_eq!(code(p.engine.register("http://127.0.0.1:1", "carol", "long enough", "x").await), "OFFLINE");
    assert_eq!(p.engine.login(&world.url(), "alice", "wrong password", "x").await.unwrap_err().code(), "INVALID_CREDENTIALS");
    assert_eq!(p.engine.login(&world.url(), "nobody", "wrong password", "x").await.unwrap_err().code(), "INVALID_CREDENTIALS");
    assert_eq!(alice.engine.find_user("nobody").await.unwrap_err().code(), "NOT_FOUND");
    assert_eq!(alice.engine.find_user("alice").await.unwrap_err().code(), "SELF");
    let bob = world.person("bob").await?;
    let c = alice.direct("bob").await?;
    assert_eq!(alice.engine.send_text(c, &"x".repeat(10_001), None).await.unwrap_err().code(), "TOO_LONG");
    assert_eq!(alice.engine.send_text(c, "  \n", None).await.unwrap_err().code(), "EMPTY");
    alice.say(c, &"ạ".repeat(10_000)).await?;
    bob.sees(c, &"ạ".repeat(10_000)).await?;
    assert!(password("alice").len() > 8);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_refuses_garbage_with_stable_codes_and_the_request_id() -> Result<()> {
    let world = World::new().await?;
    let alice = world.person("alice").await?;
    let token = alice.engine.http()?.access_token()?;
    let http = reqwest::Client::new();
    let get = |path: &str, token: &str| http.get(format!("{}{path}", world.url())).bearer_auth(token).header("x-request-id", "my-id-1");
    for (path, token, status, code) in [
        ("/v1/conversations", "", 401, "UNAUTHENTICATED"),
        ("/v1/conversations", "garbage", 401, "UNAUTHENTICATED"),
        ("/v1/conversations/not-a-uuid", &token, 400, "BAD_REQUEST"),
        ("/v1/conversations/00000000-0000-0000-0000-000000000000", &token, 403, "NOT_A_MEMBER"),
        ("/v1/conversations?cursor=x", &token, 400, "BAD_REQUEST"),
        ("/v1/nothing", &token, 404, "NOT_FOUND"),
    ] {
        let r = get(path, token).send().await?;
        assert_eq!(r.status(), status, "{path}");
        assert_eq!(r.headers()["x-request-id"], "my-id-1");
        let body: Value = r.json().await?;
        assert_eq!(body["code"], code, "{path}");
        assert_eq!(body["request_id"], "my-id-1");
    }
    for body in ["", "{", "[]", "null", "{\"username\":1}", &"[".repeat(5_000)] {
        let r = http
            .post(format!("{}/v1/auth/login/start", world.url()))
            .header("content-type", "application/json")
            .body(body.to_owned())
            .send()
            .await?;
        assert_eq!(r.status(), 400);
    }
    let big = http
        .post(format!("{}/v1/auth/login/start", world.url()))
        .header("content-type", "application/json")
        .body("x".repeat(1 << 20))
        .send()
        .await?;
    assert_eq!(big.status(), 413);
    let ready: Value = http.get(format!("{}/health/ready", world.url())).send().await?.json().await?;
    assert_eq!(ready["status"], "healthy");
    let openapi: Value = http.get(format!("{}/openapi.json", world.url())).send().await?.json().await?;
    assert!(openapi["paths"]["/v1/conversations"]["get"].is_object());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_survives_garbage_and_answers_what_it_can() -> Result<()> {
    let world = World::new().await?;
    let alice = world.person("alice").await?;
    let token = alice.engine.http()?.access_token()?;
    alice.engine.stop().await;
    let connect = |protocol: &'static str, token: String| {
        let url = format!("ws://{}/v1/gateway", world.addr);
        async move {
            let mut r = url.into_client_request().unwrap();
            r.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            r.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
            tokio_tungstenite::connect_async(r).await.map(|(s, _)| s)
        }
    };
    let mut refused = connect("secureconnect.v1.json", "garbage".into()).await?;
    let first: Value = serde_json::from_str(refused.next().await.unwrap()?.to_text()?)?;
    assert_eq!((first["type"].as_str(), first["code"].as_str()), (Some("connection_error"), Some("UNAUTHENTICATED")));
    let mut ws = connect("secureconnect.v1.json", token.clone()).await?;
    let hello: Value = serde_json::from_str(ws.next().await.unwrap()?.to_text()?)?;
    assert_eq!(hello["type"], "connected");
    for bad in ["", "{}", "[1,2", "{\"type\":\"no_such\"}", &format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000))] {
        ws.send(Message::text(bad)).await?;
        let answer: Value = serde_json::from_str(ws.next().await.unwrap()?.to_text()?)?;
        assert_eq!(answer["error"]["code"], "BAD_REQUEST", "{}", bad.chars().take(20).collect::<String>());
    }
    ws.send(Message::text(json!({"type": "ping", "request_id": 9}).to_string())).await?;
    let pong: Value = serde_json::from_str(ws.next().await.unwrap()?.to_text()?)?;
    assert_eq!((pong["type"].as_str(), pong["request_id"].as_u64()), (Some("pong"), Some(9)));
    let message = json!({"type": "send_message", "request_id": 10, "conversation_id": uuid::Uuid::now_v7(), "temp_id": uuid::Uuid::now_v7(), "epoch": 1, "generation": 0, "payload": "AA=="});
    ws.send(Message::text(message.to_string())).await?;
    let refusal: Value = serde_json::from_str(ws.next().await.unwrap()?.to_text()?)?;
    assert_eq!((refusal["request_id"].as_u64(), refusal["error"]["code"].as_str()), (Some(10), Some("NOT_A_MEMBER")));
    // Too large a frame ends this connection and no other.
    let mut other = connect("secureconnect.v1.msgpack", token).await?;
    assert!(other.next().await.is_some());
    let _ = other.send(Message::binary(vec![0u8; 300 * 1024])).await;
    while let Some(Ok(m)) = other.next().await {
        if m.is_close() {
            break;
        }
    }
    let bob = world.person("bob").await?;
    bob.settle().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_place_may_not_guess_at_many_names() -> Result<()> {
    let world = World::with(|c| (c.address_rate, c.behind_proxy) = (5, true)).await?;
    let http = reqwest::Client::new();
    let login = async |name: &str, from: &str| -> Result<u16> {
        let body = serde_json::json!({ "username": name, "request": "AAAA" });
        let r = http.post(format!("{}/v1/auth/login/start", world.url())).header("x-forwarded-for", from).json(&body).send().await?;
        Ok(r.status().as_u16())
    };
    for i in 0..5 {
        assert_eq!(login(&format!("name{i}"), "198.51.100.1, 192.0.2.7").await?, 400, "asked, and refused for its content");
    }
    assert_eq!(login("name6", "203.0.113.5, 192.0.2.7").await?, 429, "what the client claims before the proxy's entry does not count");
    assert_eq!(login("name7", "192.0.2.8").await?, 400, "somebody elsewhere is served");
    Ok(())
}
