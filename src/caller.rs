//! Who is asking: what tells one caller from another.
//!
//! Its one rule: a caller that cannot be told is never taken for another one, and shares nothing unless the operator
//! says so.
//! It does not verify a credential: it believes what the filters before this one let through.

use std::fmt;

use crate::authorization::shows_nothing;
use crate::config::source::{Fault, Part, Request, read_lines};
use crate::config::{Anonymous, Policy};
use crate::credential::is_well_known;
use crate::digest::Digest;
use crate::form;

/// Who is asking, as far as the scope tells callers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Shows these credentials, one for each part of the scope that is present. Never an empty list.
    Known(Vec<Credential>),
    /// Shows no credential at all, where the operator lets all such requests share one scope.
    Anonymous,
    /// Cannot be told: not to be mixed with any other.
    Absent,
    /// Cannot be told, and is refused.
    Refused,
}

/// What one part of the scope found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The kind of the part, so that user 42 and client 42 are two.
    kind: &'static str,
    /// Its name: of the header, the cookie, the claim.
    name: String,
    /// The lines that it had.
    lines: Vec<Vec<u8>>,
}

impl fmt::Display for Credential {
    /// Where it stood, without what stood there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Caller {
    /// Reads who is asking.
    pub fn read(policy: &Policy, request: &Request<'_>) -> Self {
        let scope = &policy.scope;
        let parts: Result<Vec<_>, Fault> = scope.caller.iter().map(|part| credential(part, request)).collect();
        let is_readable = parts.is_ok();
        // A caller with a credential that cannot be read is not told by the other parts either.
        let parts = parts.unwrap_or_default();
        // Beside a part that is a credential any other narrows only: all users of one tenant are not one caller.
        let is_credential: Vec<bool> = scope.caller.iter().map(Part::is_credential).collect();
        let tells = |index: usize| is_credential.get(index) == Some(&true) || !is_credential.contains(&true);
        let is_told = parts.iter().enumerate().any(|(index, found)| found.is_some() && tells(index));
        let shown: Vec<_> = parts.into_iter().flatten().collect();
        match scope.anonymous {
            _ if is_told => Caller::Known(shown),
            Anonymous::Refuse => Caller::Refused,
            Anonymous::Share if is_readable && !shows_credential(request) => match shown.is_empty() {
                true => Caller::Anonymous,
                // What narrows keeps those who share apart.
                false => Caller::Known(shown),
            },
            // A key that must be there would not be honoured.
            Anonymous::Auto | Anonymous::Share if policy.key.required => Caller::Refused,
            Anonymous::Auto | Anonymous::Share => Caller::Absent,
        }
    }

    /// Adds who is asking to the hash that names a record.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        match self {
            Caller::Known(credentials) => {
                digest.part("callers", &(credentials.len() as u32).to_le_bytes());
                for Credential { kind, name, lines } in credentials {
                    digest.part("kind", kind.as_bytes());
                    digest.part("name", name.as_bytes());
                    digest.list("caller", lines.iter().map(Vec::as_slice));
                }
            }
            Caller::Anonymous | Caller::Absent | Caller::Refused => digest.part("anonymous", b""),
        }
    }
}

/// Whether the connection shows a certificate of its client.
pub fn has_certificate(request: &Request<'_>) -> bool {
    request.attribute(&["connection", "mtls"]).is_some_and(|flag| flag.contains(&1))
}

/// Whether there is any well-known credential, wherever the scope looks.
fn shows_credential(request: &Request<'_>) -> bool {
    request.head.headers.iter().any(|(name, value)| !value.trim_ascii().is_empty() && is_well_known(name))
        || request
            .head
            .query()
            .is_some_and(|query| QUERIES.iter().any(|name| !form::urlencoded(query, name).is_empty()))
        || has_certificate(request)
}

/// Query parameters that show a credential (RFC 6750, section 2.3).
const QUERIES: [&str; 3] = ["access_token", "api_key", "apikey"];

/// What this part of the scope finds; none where it is absent.
fn credential(part: &Part, request: &Request<'_>) -> Result<Option<Credential>, Fault> {
    if let Part::Any(parts) = part {
        for part in parts {
            if let Some(found) = credential(part, request)? {
                return Ok(Some(found));
            }
        }
        return Ok(None);
    }
    let mut lines = read_lines(part, request)?;
    lines.retain(|line| !shows_nothing(line));
    let (kind, name) = part.kind_and_name();
    Ok((!lines.is_empty()).then_some(Credential { kind, name, lines }))
}
