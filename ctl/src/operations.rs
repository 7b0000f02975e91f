//! One operation: shown, resolved or forgotten, in Redis or through a gateway.
//!
//! Its one rule: after a word the record is looked at, and that is what is said.
//! It does not know how either is asked.

use envoy_idempotency::command::{CommandKind, Resolution, StoreReply};
use envoy_idempotency::key::Name;
use envoy_idempotency::operator::{self, Operation};
use envoy_idempotency::store::locks::Stored;
use serde_json::json;

use crate::Failed;
use crate::arguments::{Arguments, Word};
use crate::configuration;
use crate::gateway::Gateway;
use crate::list::scan;
use crate::output::{Answer, Said, time};
use crate::show;
use crate::store::{Store, damaged};

/// A record's life where nothing else is said: the default of ttl_s in Redis.
const DAY_MS: u64 = 86_400_000;

/// Shows what is known of an operation.
pub fn show(arguments: &Arguments, operation: &str, reveals: bool) -> Result<Said, Failed> {
    if let Some(gateway) = Gateway::of(arguments)? {
        return match reveals {
            true => Err("a gateway shows no responses: --reveal wants Redis".to_owned()),
            false => gateway.look(operation),
        };
    }
    let mut store = Store::open(arguments)?;
    match find(&mut store, operation)? {
        Ok(name) => shown(&mut store, arguments, &name, reveals),
        Err(said) => Ok(said),
    }
}

/// Takes an operator's word.
pub fn resolve(arguments: &Arguments, operation: &str, word: &Word) -> Result<Said, Failed> {
    match Gateway::of(arguments)? {
        Some(gateway) => gateway.resolve(operation, word),
        None => settle(arguments, operation, word.resolution(), word.ttl.unwrap_or(DAY_MS)),
    }
}

/// Lets an operation run again.
pub fn forget(arguments: &Arguments, operation: &str) -> Result<Said, Failed> {
    match Gateway::of(arguments)? {
        Some(gateway) => gateway.forget(operation),
        None => settle(arguments, operation, Resolution::Forget, DAY_MS),
    }
}

fn settle(arguments: &Arguments, operation: &str, said: Resolution, ttl_ms: u64) -> Result<Said, Failed> {
    let mut store = Store::open(arguments)?;
    let name = match find(&mut store, operation)? {
        Ok(name) => name,
        Err(said) => return Ok(said),
    };
    let answer = store.run(name, CommandKind::Resolve(said), ttl_ms);
    let why = match answer.map_err(|why| no_operation(&mut store, &name).unwrap_or(why))? {
        StoreReply::Settled => {
            let mut said = shown(&mut store, arguments, &name, false)?;
            said.text.push_str(REMEMBERED);
            return Ok(said);
        }
        StoreReply::InFlight { attempt } => {
            format!("attempt {attempt} is executing: its lease is not over. Nothing was changed.")
        }
        StoreReply::Unknown { attempt, wait_ms } => format!(
            "attempt {attempt} may still be executing: its lease is over in {}. Nothing was changed.",
            time(wait_ms.max(1000))
        ),
        StoreReply::Lost => "it has completed, so it ran. Nothing was changed; `forget` lets it run again.".to_owned(),
        StoreReply::Stale => {
            "there is another attempt than the one you speak of: look again. Nothing was changed.".to_owned()
        }
        StoreReply::Seen(None) => return Ok(absent(&name.hex())),
        other => return Err(format!("the script gave an answer to another question: {other:?}")),
    };
    Ok(Said {
        text: format!("Refused: {why}\n"),
        json: json!({ "operation": name.hex(), "refused": why }),
        answer: Answer::No,
    })
}

/// Why no such word is taken of what stands there, where it is sound and no operation.
fn no_operation(store: &mut Store, name: &Name) -> Option<Failed> {
    let bytes = store.record(name).ok().flatten()?;
    let why = match Stored::decode(&bytes).ok()? {
        Stored::Operation(_) => return None,
        Stored::Lock(_) => "this is a lock and no operation: `forget` lets it go, and there is no other word of it",
        Stored::Similar(_) => "this is a list of similar requests and no operation: there is no word of it",
    };
    Some(why.to_owned())
}

const REMEMBERED: &str =
    "Gateways may replay for a while (store.cache.ttl_s, 60 s unless set) what they remember of it.\n";

fn shown(store: &mut Store, arguments: &Arguments, name: &Name, reveals: bool) -> Result<Said, Failed> {
    let now_ms = store.now_ms()?;
    let Some(bytes) = store.record(name)? else { return Ok(absent(&name.hex())) };
    let record = match Stored::decode(&bytes).map_err(|_| damaged(&store.key(name)))? {
        Stored::Operation(record) => record,
        Stored::Lock(lock) => return Ok(show::lock(name, &lock, now_ms)),
        Stored::Similar(similar) => return Ok(show::similar(name, &similar, now_ms)),
    };
    let config = if reveals { configuration::read(arguments)? } else { None };
    Ok(show::record(name, &record, now_ms, config.as_ref(), reveals))
}

/// The operation that is meant; or what is to be said where there is not exactly one.
fn find(store: &mut Store, operation: &str) -> Result<Result<Name, Said>, Failed> {
    match operator::parse(operation.as_bytes()) {
        Some(Operation::Whole(name)) => Ok(Ok(name)),
        Some(Operation::Short(_)) => {
            let mut found = Vec::new();
            let prefix_len = store.prefix.len();
            scan(store, &operation.to_ascii_lowercase(), |key, _| {
                found.extend(match operator::parse(key.get(prefix_len..).unwrap_or_default()) {
                    Some(Operation::Whole(name)) => Some(name),
                    _ => None,
                });
                true
            })?;
            found.sort_by_key(Name::hex);
            found.dedup();
            match found.as_slice() {
                [] => Ok(Err(absent(operation))),
                [name] => Ok(Ok(*name)),
                several => {
                    let names: Vec<_> = several.iter().map(Name::hex).collect();
                    let text = format!("Several operations begin so:\n{}\n", names.join("\n"));
                    Ok(Err(Said { text, json: json!({ "ambiguous": names }), answer: Answer::No }))
                }
            }
        }
        None => {
            Err(format!("an operation is named by 64 hex digits, or by the first 12 of them, not by {operation:?}"))
        }
    }
}

fn absent(operation: &str) -> Said {
    let text = "Absent: never seen, expired, or under another prefix.\n".to_owned();
    Said { text, json: json!({ "operation": operation, "state": "absent" }), answer: Answer::No }
}
