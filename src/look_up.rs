//! What a client asks the gateway itself: with a `GET` on `status_path` what became of an operation, with a `POST` on
//! `issue_path` for a key.
//!
//! Its one rule: a look-up finds what the caller could have made itself, and a key is for the caller that asks.
//! It does not know what is known of the operation, nor what makes a key.

use std::rc::Rc;

use crate::caller::Caller;
use crate::config::source::{Attributes, Request};
use crate::config::{Config, Issued, Mode, OnMismatch, Part};
use crate::exchange::{Exchange, Secrets};
use crate::form;
use crate::key::{self, ClientKey, NoKey, UpstreamKey};
use crate::message::RequestHead;
use crate::record::Owner;
use crate::refusal::ProblemType;
use crate::reply::{ProblemDetails, Reply};

/// The exchange that answers it; `random` is for a key.
///
/// # Errors
/// The answer is clear already: there is nothing to find, or no telling what is asked for.
pub fn begin(
    config: &Config,
    secrets: &Rc<Secrets>,
    head: &RequestHead,
    attribute: Attributes<'_>,
    metadata: &dyn Fn(&str, &str) -> Option<Vec<u8>>,
    owner: Owner,
    random: UpstreamKey,
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
    let request = Request::new(&asked, b"", attribute);
    let problem = |slug| Reply::problem(policy, slug, ProblemDetails::default());
    let caller = |without: &str| match Caller::read(policy, &request) {
        Caller::Absent => Err(Reply::bad_look_up(without)),
        Caller::Refused => Err(problem(ProblemType::CallerMissing)),
        caller => Ok(caller),
    };
    let is_by_body = policy.scope.caller.iter().any(Part::is_in_body);
    if head.method() == b"POST" {
        if matches!(policy.mode, Mode::Inject | Mode::Off) || !policy.key.fits_issued() || is_by_body {
            return Err(Reply::bad_look_up(NEVER_ISSUED));
        }
        let issued = secrets.issuer.issue(&rule.name, &caller(NO_CALLER_TO_ISSUE_TO)?, random, &request);
        let (key, left_s) = issued.ok_or_else(|| Reply::bad_look_up(NEVER_ISSUED))?;
        return Ok(Exchange::telling(Rc::clone(policy), Rc::clone(secrets), Reply::issued(&key, left_s)));
    }
    // Any other mode keeps nothing that a client could ask for.
    if policy.mode != Mode::Enforce {
        return Err(Reply::sight(None, None));
    }
    if policy.on_mismatch == OnMismatch::Separate || is_by_body {
        return Err(Reply::bad_look_up(NAMED_BY_BODY));
    }
    let keys = form::urlencoded(query, "key");
    let key =
        if keys.is_empty() { ClientKey::read(&policy.key, &request) } else { ClientKey::given(&policy.key, keys) };
    let key = key.map_err(|missing| match missing {
        NoKey::Absent | NoKey::Unreadable => problem(ProblemType::KeyMissing),
        NoKey::Invalid => problem(ProblemType::KeyInvalid),
    })?;
    let caller = caller(WITHOUT_CALLER)?;
    let issued = secrets.issuer.judge(&rule.name, &caller, &key, &request);
    if let (Err(detail), Issued::Required) = (issued, policy.key.issued) {
        let details = ProblemDetails { detail: Some(detail), ..ProblemDetails::default() };
        return Err(Reply::problem(policy, ProblemType::KeyInvalid, details));
    }
    let name = key::name(policy, secrets.hash_key.as_ref(), &asked, &caller, &key);
    let left_s = issued.ok().map(|issued| issued.left_s);
    Ok(Exchange::looking(Rc::clone(policy), Rc::clone(secrets), name, left_s, owner))
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
const NO_CALLER_TO_ISSUE_TO: &str = "This request shows no caller, and a key is issued to one. Give the caller as in the \
                                request that the key is for.";
const NEVER_ISSUED: &str = "No key is issued for this method and path: its rule keeps no records, or its keys or its \
                            callers are not in one field of the head.";
const NAMED_BY_BODY: &str = "Only the body tells the operations of this rule apart, so they cannot be looked up.";
