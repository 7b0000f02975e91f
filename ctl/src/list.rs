//! Many operations at once: listed, or counted.
//!
//! Its one rule: a scan reads keys and the beginnings of records, never a response, and changes nothing.
//! It does not know one operation from another but by its record.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_idempotency::record::{FORMAT, Record, RecordStatus, State as Known};
use envoy_idempotency::store::locks::Stored;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::Failed;
use crate::arguments::{Arguments, State, Wanted};
use crate::output::{Answer, Said, time};
use crate::show::{since_ms, word};
use crate::store::Store;

/// Why there is no record to be had of a key.
pub enum NoRecord {
    /// What stands there is none.
    Damaged(String),
    /// This node does not show it: it is another's, or this user may not read it.
    Unasked(String),
}

/// Every key under the prefix with the beginning of its record, while `see` wants more.
pub fn scan(
    store: &mut Store,
    beginning: &str,
    mut see: impl FnMut(&[u8], Result<Record, NoRecord>) -> bool,
) -> Result<(), Failed> {
    // On a terminal only; elsewhere it draws nothing.
    let bar = ProgressBar::new(store.size()?);
    let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} keys, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    let beginning = format!("{}{beginning}", store.prefix);
    let mut cursor = "0".to_owned();
    loop {
        let (next, keys) = store.scan(&cursor, &beginning)?;
        // Other keys of this database are passed over too.
        bar.inc(1000);
        let heads = if keys.is_empty() { Vec::new() } else { store.heads(&keys)? };
        for (key, head) in keys.iter().zip(heads) {
            let stored = match head {
                // One that has expired meanwhile.
                Ok(head) if head.is_empty() => continue,
                Ok(head) => Stored::decode(&head).map_err(|_| NoRecord::Damaged(damage(&head))),
                Err(code) if code == "WRONGTYPE" => Err(NoRecord::Damaged("no string".to_owned())),
                Err(code) => Err(NoRecord::Unasked(code)),
            };
            let record = match stored {
                Ok(Stored::Operation(record)) => Ok(record),
                // A lock is no operation.
                Ok(Stored::Lock(_) | Stored::Similar(_)) => continue,
                Err(why) => Err(why),
            };
            if !see(key, record) {
                bar.finish_and_clear();
                return Ok(());
            }
        }
        if next == "0" {
            bar.finish_and_clear();
            return Ok(());
        }
        cursor = next;
    }
}

/// What stands there that is no record.
fn damage(head: &[u8]) -> String {
    match head {
        [FORMAT, ..] => format!("damaged (format {FORMAT}, which is read here)"),
        [format, ..] => format!("of a format that is not read here ({format})"),
        [] => "nothing".to_owned(),
    }
}

/// Keys of which there is no record to be had: how many for which reason, and the first of the damaged ones.
#[derive(Default)]
pub struct Unread {
    pub damaged: BTreeMap<String, u64>,
    pub unasked: BTreeMap<String, u64>,
    pub first: Vec<String>,
}

impl Unread {
    /// Counts one more.
    pub fn note(&mut self, key: &[u8], why: NoRecord) {
        match why {
            NoRecord::Damaged(why) => {
                *self.damaged.entry(why).or_default() += 1;
                if self.first.len() < FIRST {
                    self.first.push(key.escape_ascii().to_string());
                }
            }
            NoRecord::Unasked(why) => *self.unasked.entry(why).or_default() += 1,
        }
    }

    /// How many hold no record.
    pub fn count_damaged(&self) -> u64 {
        self.damaged.values().sum()
    }

    /// The damaged ones by name, as far as they are named.
    pub fn named(&self) -> String {
        let more = if self.count_damaged() > self.first.len() as u64 { ", …" } else { "" };
        format!("{}{more}", self.first.join(", "))
    }

    /// Of those that could not be asked; none where all could.
    pub fn not_asked(&self) -> Option<String> {
        let count: u64 = self.unasked.values().sum();
        let codes: Vec<_> = self.unasked.keys().cloned().collect();
        (count > 0).then(|| format!("{count} keys could not be asked here ({})", codes.join(", ")))
    }
}

/// How many damaged keys are named.
const FIRST: usize = 5;

/// Lists operations.
pub fn list(arguments: &Arguments, wanted: &Wanted) -> Result<Said, Failed> {
    let mut store = Store::open(arguments)?;
    let (now_ms, prefix_len) = (store.now_ms()?, store.prefix.len());
    let (mut found, mut unread, mut is_cut) = (BTreeMap::new(), Unread::default(), false);
    scan(&mut store, "", |key, record| {
        let record = match record {
            Ok(record) => record,
            Err(why) => {
                unread.note(key, why);
                return true;
            }
        };
        let age_ms = since_ms(&record, now_ms).map(|since_ms| now_ms.saturating_sub(since_ms));
        let is_old = wanted.older.is_none_or(|older| age_ms.is_some_and(|age_ms| age_ms >= older));
        if is_old && wanted.state.is_none_or(|state| state == state_of(&record, now_ms)) {
            is_cut = found.len() >= wanted.limit;
            if !is_cut {
                let name = String::from_utf8_lossy(key.get(prefix_len..).unwrap_or_default()).into_owned();
                found.insert(name, (record, age_ms));
            }
        }
        !is_cut
    })?;
    let mut rows: Vec<_> = found.into_iter().collect();
    rows.sort_by_key(|(_, (_, age_ms))| std::cmp::Reverse(*age_ms));
    let mut text = String::new();
    let mut listed = Vec::new();
    for (name, (record, age_ms)) in rows {
        let seen = record.sight(now_ms);
        let state = word(seen.standing);
        let age = age_ms.map_or("-".to_owned(), time);
        text.push_str(&format!(
            "{name}  {state:<9}  attempt {:<3}  for {age:<8}  lives {}\n",
            seen.attempt,
            time(seen.ttl_ms)
        ));
        listed.push(json!({
            "operation": name,
            "state": state,
            "attempt": seen.attempt,
            "age_s": age_ms.map(|age_ms| age_ms / 1000),
            "ttl": seen.ttl_ms / 1000,
        }));
    }
    if listed.is_empty() {
        text.push_str("None.\n");
    }
    if is_cut {
        text.push_str(&format!("There are more than {}: --limit shows them.\n", wanted.limit));
    }
    let damaged = unread.count_damaged();
    if damaged > 0 {
        let named = unread.named();
        text.push_str(&format!("{damaged} keys under this prefix hold no operation that can be read: {named}\n"));
    }
    text.extend(unread.not_asked().map(|said| format!("{said}.\n")));
    let json = json!({
        "operations": listed,
        "has_more": is_cut,
        "unreadable": damaged,
        "unreadable_keys": unread.first,
        "unasked": unread.unasked,
    });
    Ok(Said { text, json, answer: Answer::Yes })
}

/// Counts operations by their states.
pub fn stats(arguments: &Arguments) -> Result<Said, Failed> {
    let mut store = Store::open(arguments)?;
    let now_ms = store.now_ms()?;
    let (mut counts, mut replayable, mut doubtful) = (BTreeMap::<State, u64>::new(), 0_u64, 0_u64);
    let (mut oldest, mut unread) = (None, Unread::default());
    scan(&mut store, "", |key, record| {
        match record {
            Ok(record) => {
                let state = state_of(&record, now_ms);
                *counts.entry(state).or_default() += 1;
                doubtful += u64::from(record.doubt);
                replayable += u64::from(matches!(&record.state, Known::Completed { response: Some(_), .. }));
                if state == State::Unknown {
                    oldest = oldest.max(since_ms(&record, now_ms).map(|since_ms| now_ms.saturating_sub(since_ms)));
                }
            }
            Err(why) => unread.note(key, why),
        }
        true
    })?;
    let count = |state| Value::from(counts.get(&state).copied().unwrap_or(0));
    Ok(Said::members(vec![
        ("running", count(State::Running)),
        ("unknown", count(State::Unknown)),
        ("oldest_unknown_s", oldest.map_or(Value::Null, |ms| Value::from(ms / 1000))),
        ("open", count(State::Open)),
        ("completed", count(State::Completed)),
        ("replayable", replayable.into()),
        ("in_doubt", doubtful.into()),
        ("unreadable", json!(unread.damaged)),
        ("unreadable_keys", json!(unread.first)),
        ("unasked", json!(unread.unasked)),
    ]))
}

fn state_of(record: &Record, now_ms: u64) -> State {
    match record.sight(now_ms).standing {
        RecordStatus::Completed(_) => State::Completed,
        RecordStatus::Open => State::Open,
        RecordStatus::Running => State::Running,
        RecordStatus::Unknown => State::Unknown,
    }
}
