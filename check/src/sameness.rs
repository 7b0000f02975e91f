//! In words: who is one caller, and what is one operation.
//!
//! Its one rule: what a request without a caller becomes is said in the same breath as what tells callers.
//! It does not know what becomes of an operation.

use envoy_idempotency::config::{Anonymous, BodyPart, Members, OnMismatch, Part, Policy, Separation};
use envoy_idempotency::fingerprint::MEANINGFUL;
use envoy_idempotency::refusal::ProblemType;

use crate::words::{all, either};

/// Who is asking.
pub fn caller(policy: &Policy, status: &dyn Fn(ProblemType) -> String) -> String {
    let scope = &policy.scope;
    let parts: Vec<_> = scope.caller.iter().map(Part::to_string).collect();
    let (told, without, unreadable) = match parts.as_slice() {
        [] => ("nothing".to_owned(), "every request".to_owned(), ""),
        [part] => (part.clone(), "a request without it".to_owned(), ", or with one that cannot be read,"),
        parts => {
            let credentials = scope.caller.iter().filter(|part| part.is_credential()).count();
            let without = match credentials {
                1.. if credentials < parts.len() => "a request without a credential among them".to_owned(),
                _ => "a request without any of them".to_owned(),
            };
            let told = format!("{}, each that is present", all(parts));
            (told, without, ", or with one that cannot be read,")
        }
    };
    let refused = format!("is refused: {}", status(ProblemType::CallerMissing));
    let apart = match policy.key.required {
        true => format!("is refused, because a key is required: {}", status(ProblemType::CallerMissing)),
        false => "passes unprotected, with reason=no-caller".to_owned(),
    };
    let becomes = match scope.anonymous {
        Anonymous::Auto => format!("{without}{unreadable} {apart}"),
        Anonymous::Refuse => format!("{without}{unreadable} {refused}"),
        Anonymous::Share => format!(
            "{without} shares one scope with all others that show no credential at all; one that shows another \
             credential (one of the headers that docs/keys.md lists, or a client certificate), or one that cannot be \
             read, {apart}"
        ),
    };
    format!("told by {told}; {becomes}")
}

/// The parts of the target that count so.
fn target(policy: &Policy, used: Separation) -> Vec<String> {
    let scope = &policy.scope;
    let parts = [(scope.method, "method"), (scope.host, "host"), (scope.path, "path")];
    parts.into_iter().filter(|(counts, _)| *counts == used).map(|(_, name)| name.to_owned()).collect()
}

/// What separates two uses of one key.
pub fn apart(policy: &Policy) -> String {
    let mut said = vec![match target(policy, Separation::Separates).as_slice() {
        [] => "one key is one operation, whatever it is sent to".to_owned(),
        names => format!("the same key is another operation under another {}", either(names)),
    }];
    let compared = target(policy, Separation::Compared);
    if !compared.is_empty() {
        said.push(format!("{} must be the same (next line)", all(&compared)));
    }
    let ignored = target(policy, Separation::Ignored);
    if !ignored.is_empty() {
        let count = if ignored.len() == 1 { "does" } else { "do" };
        said.push(format!("{} {count} not count: another one gets the same answer", all(&ignored)));
    }
    said.join("; ")
}

/// What makes two requests with one key the same.
pub fn same(policy: &Policy, status: &dyn Fn(ProblemType) -> String) -> String {
    let fingerprint = &policy.fingerprint;
    let compared = target(policy, Separation::Compared);
    let mut parts: Vec<_> = compared.into_iter().map(|name| format!("the {name}")).collect();
    match &fingerprint.body {
        BodyPart::Bytes => parts.push("the bytes of the body".to_owned()),
        BodyPart::Json(Members::Only(only)) => {
            parts.push(format!(
                "of what the body says as JSON only {}",
                all(&only.iter().map(ToString::to_string).collect::<Vec<_>>())
            ));
        }
        BodyPart::Json(Members::AllBut(ignored)) if ignored.is_empty() => {
            parts.push("what the body says as JSON".to_owned())
        }
        BodyPart::Json(Members::AllBut(ignored)) => {
            let ignored: Vec<_> = ignored.iter().map(ToString::to_string).collect();
            parts.push(format!("what the body says as JSON (without {})", all(&ignored)));
        }
        BodyPart::Off => {}
    }
    if fingerprint.query {
        parts.push("the query string".to_owned());
    }
    parts.extend(fingerprint.headers.iter().map(|name| match name.as_str() {
        "content-type" => "the media type".to_owned(),
        name => format!("header {name}"),
    }));
    let is_chosen = |name: &str| fingerprint.headers.iter().any(|chosen| chosen == name);
    let meant: Vec<_> = MEANINGFUL.into_iter().filter(|name| !is_chosen(name)).map(str::to_owned).collect();
    if !meant.is_empty() {
        parts.push(format!("and where present {}", all(&meant)));
    }
    let otherwise = match policy.on_mismatch {
        OnMismatch::Reject => status(ProblemType::Mismatch),
        OnMismatch::Separate => "it is another operation".to_owned(),
    };
    match parts.as_slice() {
        [] => "any request with the same key".to_owned(),
        parts => format!("these must be the same: {}; otherwise {otherwise}", parts.join(", ")),
    }
}
