//! How findings about several rules become one sentence.
//!
//! Its one rule: what is said of several rules is said once, and names each of them once.
//! It does not know what is found.

use crate::describe::all;
use crate::ways::Way;

/// Notes that this is said of one more rule or place.
pub fn say<T: PartialEq, N: PartialEq>(found: &mut Vec<(T, Vec<N>)>, said: T, of: N) {
    match found.iter_mut().find(|(known, _)| *known == said) {
        Some((_, names)) if names.contains(&of) => {}
        Some((_, names)) => names.push(of),
        None => found.push((said, vec![of])),
    }
}

/// `rule a`, `rules a and b`.
pub fn rules_named(names: &[&str]) -> String {
    named("rule", names)
}

/// `provider a`, `providers a and b`.
pub fn named(kind: &str, names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    format!("{kind}{} {}", if names.len() == 1 { "" } else { "s" }, all(&names))
}

/// What is said of these ways, with the places of those of which it is said, unless it is all of them.
pub fn on_ways<'a>(ways: &[Way<'a>], said_of: impl Fn(&Way<'a>) -> Vec<String>) -> Vec<String> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for way in ways {
        let place = way.place().unwrap_or_default().to_owned();
        for reason in said_of(way) {
            say(&mut found, reason, place.clone());
        }
    }
    let told = found.into_iter().map(|(reason, places)| match places.len() == ways.len() {
        true => reason,
        false => format!("on {} {reason}", all(&places)),
    });
    told.collect()
}
