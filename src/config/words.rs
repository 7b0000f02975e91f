//! How a configuration is put into words: lists and amounts.
//!
//! Its one rule: an amount stands in the largest unit that needs no fraction.
//! It does not know which field is described.

use std::fmt::Display;

/// A label and what there is to say under it.
pub type Line = (&'static str, String);

/// `a, b or c`.
pub fn either<T: Display>(words: &[T]) -> String {
    joined(words, "or")
}

/// `a, b and c`.
pub fn all<T: Display>(words: &[T]) -> String {
    joined(words, "and")
}

fn joined<T: Display>(words: &[T], last_with: &str) -> String {
    match words {
        [] => String::new(),
        [word] => word.to_string(),
        [others @ .., last] => format!("{} {last_with} {last}", list(others)),
    }
}

/// `a, b, c`.
pub fn list<T: Display>(words: &[T]) -> String {
    words.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// `1 min`, of milliseconds.
pub fn time(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    in_units(ms, &units).unwrap_or_else(|| format!("{ms} ms"))
}

/// `512 KiB`.
pub fn bytes(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    in_units(bytes, &units).unwrap_or_else(|| count(bytes, "byte"))
}

fn in_units(amount: u64, units: &[(u64, &str)]) -> Option<String> {
    let (size, name) = units.iter().find(|(size, _)| amount >= *size && amount.is_multiple_of(*size))?;
    Some(format!("{} {name}", amount / size))
}

/// `once`, `2 times`.
pub fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

/// `2 calls`.
pub fn count(count: impl Into<u64>, what: &str) -> String {
    match count.into() {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}
