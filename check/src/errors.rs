//! Every error of a document, not only the first.
//!
//! Its one rule: the first error is the filter's own. What it is about is then taken out and the rest is read again, and
//! an error that may come of that is not said.
//! It does not know any field.

use envoy_idempotency::config::{ConfigError, Document};
use serde_json::Value;

/// So many errors of one document are enough to begin with.
const MAX: usize = 50;

/// A place in a document: names of members and numbers of items, from the root.
type Path = Vec<String>;

/// Every error of a document of which this is the first, in the order in which they are found.
pub fn all(document: &str, first: &ConfigError, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let (mut errors, mut removed) = (vec![first.to_string()], Vec::<Path>::new());
    let Ok(mut rest) = serde_json::from_str::<Value>(document) else { return errors };
    let mut error = first.to_string();
    while errors.len() < MAX {
        let Some(path) = path(&error) else { break };
        let original = original(&path, &removed);
        if removed.contains(&original) || !remove(&mut rest, &path) {
            break;
        }
        removed.push(original);
        error = match Document::parse(rest.to_string().as_bytes(), read) {
            Ok(_) => break,
            Err(next) => next.to_string(),
        };
        if let Some(said) = own_error(&error, &removed) {
            errors.push(said);
        }
    }
    errors
}

/// The error with the place that it has in the whole document; none where it may come of what was taken out.
fn own_error(error: &str, removed: &[Path]) -> Option<String> {
    let (_, message) = error.split_once(": ")?;
    let original = original(&path(error)?, removed);
    let comes_of_it = |gone: &Path| {
        let name = gone.last().map(String::as_str).unwrap_or_default();
        gone.starts_with(&original)
            || message.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
    };
    let shown: String = original.iter().map(|segment| format!("/{segment}")).collect();
    (!removed.iter().any(comes_of_it)).then(|| format!("{shown}: {message}"))
}

/// The place that an error names in front; none where it names the whole document.
fn path(error: &str) -> Option<Path> {
    let (place, _) = error.split_once(": ")?;
    Some(place.strip_prefix('/')?.split('/').map(str::to_owned).collect())
}

/// The same place before these were taken out: items behind one that is gone have moved up.
fn original(path: &[String], removed: &[Path]) -> Path {
    let mut whole = Path::new();
    for segment in path {
        let mut gone: Vec<usize> = removed
            .iter()
            .filter_map(|gone| gone.strip_prefix(whole.as_slice()))
            .filter_map(|rest| if let [item] = rest { item.parse().ok() } else { None })
            .collect();
        gone.sort_unstable();
        whole.push(match segment.parse::<usize>() {
            Ok(index) => gone.into_iter().fold(index, |index, gone| index + usize::from(gone <= index)).to_string(),
            Err(_) => segment.clone(),
        });
    }
    whole
}

/// Takes out what stands there; tells whether anything did.
fn remove(document: &mut Value, path: &[String]) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    let parent = parents.iter().try_fold(document, |node, segment| match node {
        Value::Object(members) => members.get_mut(segment),
        Value::Array(items) => items.get_mut(segment.parse::<usize>().ok()?),
        _ => None,
    });
    match parent {
        Some(Value::Object(members)) => members.remove(last).is_some(),
        Some(Value::Array(items)) => match last.parse::<usize>() {
            Ok(index) if index < items.len() => {
                items.remove(index);
                true
            }
            _ => false,
        },
        _ => false,
    }
}
