//! Nothing that was said is anywhere it should not be, and no secret is in a log.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::Result;
use sc_store::search::SearchFilter;
use sc_testkit::{PASSPHRASE, World, password};
use std::path::Path;

fn files(dir: &Path, out: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files(&entry.path(), out)?;
        } else {
            out.push((entry.path().display().to_string(), std::fs::read(entry.path())?));
        }
    }
    Ok(())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_what_was_said_is_outside_the_encrypted_stores() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let secrets = ["zebra-crossing-quartz", "the-title-of-the-group-is-amethyst", "reply-obsidian", "draft-malachite", "query-tourmaline"];
    let c = alice.engine.create_group(secrets[1], vec![alice.engine.find_user("bob").await?.user_id]).await?;
    let first = alice.say(c, secrets[0]).await?;
    bob.sees(c, secrets[0]).await?;
    bob.engine.send_text(c, secrets[2], Some(first.temp_id)).await?;
    alice.sees(c, secrets[2]).await?;
    alice.engine.set_draft(c, secrets[3]).await?;
    alice.engine.read(|r| r.search(secrets[4], &SearchFilter::default(), 10))?;
    assert_eq!(alice.engine.read(|r| r.search("zebra crossing", &SearchFilter::default(), 10))?.len(), 1, "the search does find it");
    alice.settle().await?;
    bob.settle().await?;
    let mut all = Vec::new();
    files(world.dir.path(), &mut all)?;
    assert!(all.iter().any(|(n, _)| n.ends_with("server.db")) && all.iter().any(|(n, _)| n.ends_with("store.db-wal")));
    let mut needles: Vec<Vec<u8>> = secrets.iter().map(|s| s.as_bytes().to_vec()).collect();
    needles.extend([password("alice").into_bytes(), password("bob").into_bytes(), PASSPHRASE.as_bytes().to_vec()]);
    needles.extend(secrets.iter().map(|s| s.encode_utf16().flat_map(u16::to_le_bytes).collect()));
    for (name, bytes) in &all {
        for needle in &needles {
            assert!(!contains(bytes, needle), "{name} holds {:?}", String::from_utf8_lossy(needle));
        }
    }
    // The test can fail: what the server may know is found the same way.
    assert!(all.iter().any(|(n, b)| n.contains("server.db") && contains(b, b"alice")));
    for (name, bytes) in all.iter().filter(|(n, _)| n.ends_with("store.db")) {
        assert!(!bytes.starts_with(b"SQLite format 3"), "{name} is not encrypted");
    }
    Ok(())
}
