//! Search: hits, and how they are spread.

use super::{App, id};
use crate::AppError;
use crate::command::Filter;
use crate::view::{self, FacetsView, Row};
use sc_engine::Engine;
use sc_store::search::SearchFilter;

/// Hits that are shown.
const HITS: u32 = 50;

fn filter(f: &Filter) -> Result<SearchFilter, AppError> {
    let conversation = f.conversation.as_deref().map(id).transpose()?;
    let sender = f.sender.as_deref().map(id).transpose()?;
    Ok(SearchFilter { conversation, sender, since: f.since, until: f.until })
}

impl App {
    pub(super) fn search(&self, e: &Engine, query: &str, f: &Filter) -> Result<Vec<Row>, AppError> {
        let f = filter(f)?;
        let hits = e.read(|r| r.search(query, &f, HITS))?;
        let names = self.names(e)?;
        Ok(hits.iter().map(|m| view::row(m, &names, None, 0)).collect())
    }

    pub(super) fn facets(&self, e: &Engine, query: &str, f: &Filter) -> Result<FacetsView, AppError> {
        let f = filter(f)?;
        let facets = e.read(|r| r.facets(query, &f))?;
        let names = self.names(e)?;
        Ok(FacetsView {
            conversations: facets.conversations.into_iter().map(|(c, n)| (c.to_string(), n)).collect(),
            senders: facets.senders.into_iter().map(|(u, n)| (u.to_string(), names.name(u), n)).collect(),
        })
    }
}
