//! The status look-up: from a `GET` on `status_path` to the operation that it asks about.
//!
//! Its one rule: it finds what the caller could have made himself, and nothing else.
//! It does not know what is known of the operation.

use std::rc::Rc;

use crate::caller::Caller;
use crate::config::source::{Attributes, Request};
use crate::config::{Config, Mode, OnMismatch, Part};
use crate::exchange::{Exchange, Secrets};
use crate::form;
use crate::key::{self, ClientKey, NoKey};
use crate::message::RequestHead;
use crate::record::Owner;
use crate::refusal::ProblemType;
use crate::reply::{ProblemDetails, Reply};

/// The exchange that answers a look-up.
///
/// # Errors
/// The answer is clear already: there is nothing to find, or no telling what is looked for.
pub fn begin(
    config: &Config,
    secrets: &Rc<Secrets>,
    head: &RequestHead,
    attribute: Attributes<'_>,
    metadata: &dyn Fn(&str, &str) -> Option<Vec<u8>>,
    owner: Owner,
) -> Result<Exchange, Reply> {
    let query = head.query().unwrap_or_default();
    let method = one(form::urlencoded(query, "method")).ok_or_else(|| Reply::bad_look_up(WITHOUT_METHOD))?;
    let target = one(form::urlencoded(query, "path")).ok_or_else(|| Reply::bad_look_up(WITHOUT_PATH))?;
    let is_target = |name: &[u8]| name == b":method" || name == b":path";
    let ours = [(b":method".as_slice(), method.as_slice()), (b":path", &target)];
    let headers = ours.into_iter().chain(head.headers.iter().filter(|(name, _)| !is_target(name))).collect();
    let asked = RequestHead { headers };
    let rule = config.rule_for(&asked, metadata).ok_or_else(|| Reply::bad_look_up(WITHOUT_RULE))?;
    let policy = &rule.policy;
    // Any other mode keeps nothing that a client could ask for.
    if policy.mode != Mode::Enforce {
        return Err(Reply::sight(None));
    }
    if policy.on_mismatch == OnMismatch::Separate || policy.scope.caller.iter().any(Part::is_in_body) {
        return Err(Reply::bad_look_up(NAMED_BY_BODY));
    }
    let problem = |slug| Reply::problem(policy, slug, ProblemDetails::default());
    let request = Request::new(&asked, b"", attribute);
    let keys = form::urlencoded(query, "key");
    let key =
        if keys.is_empty() { ClientKey::read(&policy.key, &request) } else { ClientKey::given(&policy.key, keys) };
    let key = key.map_err(|missing| match missing {
        NoKey::Absent | NoKey::Unreadable => problem(ProblemType::KeyMissing),
        NoKey::Invalid => problem(ProblemType::KeyInvalid),
    })?;
    let caller = Caller::read(policy, &request);
    match caller {
        Caller::Absent => return Err(Reply::bad_look_up(WITHOUT_CALLER)),
        Caller::Refused => return Err(problem(ProblemType::CallerMissing)),
        Caller::Anonymous | Caller::Known(_) => {}
    }
    let name = key::name(policy, secrets.hash_key.as_ref(), &asked, &caller, &key);
    Ok(Exchange::looking(Rc::clone(policy), Rc::clone(secrets), name, owner))
}

fn one(values: Vec<Vec<u8>>) -> Option<Vec<u8>> {
    let mut values = values.into_iter();
    values.next().filter(|_| values.next().is_none())
}

const WITHOUT_METHOD: &str = "Say once which method the operation has: ?method=POST&path=/v1/payments";
const WITHOUT_PATH: &str = "Say once which path the operation has: ?method=POST&path=/v1/payments";
const WITHOUT_RULE: &str = "No rule is about this method and path, so there is nothing to know.";
const WITHOUT_CALLER: &str = "This request shows no caller, and without one nothing is kept: whether the operation ran \
                              is not known here. Give the caller as in the original request.";
const NAMED_BY_BODY: &str = "Only the body tells the operations of this rule apart, so they cannot be looked up.";
