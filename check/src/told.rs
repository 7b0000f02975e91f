//! How findings about several rules become one sentence.
//!
//! Its one rule: what is said of several rules is said once, and names each of them once.
//! It does not know what is found.

use crate::words::all;

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
