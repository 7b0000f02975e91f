//! The `authorization` header: which of its values tell a caller, and who has signed a request.
//!
//! Its one rule: what a client may make anew for each try tells no caller, unless the operator names it.
//! It does not verify anything: a filter in front does.

use crate::message::Headers;

/// A value that tells no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// The lines of a header of credentials, where each shows a caller that is the same for every try.
///
/// "credentials = auth-scheme [ 1*SP ( token68 / #auth-param ) ]" (RFC 9110, section 11.4).
pub fn credentials(header: &str, more: &[String], headers: &Headers) -> Result<Vec<Vec<u8>>, Unreadable> {
    let lines: Vec<&[u8]> = headers.all(header).filter(|line| !line.trim_ascii().is_empty()).collect();
    match lines.iter().all(|line| Authorization::split(line, more).tells_caller(more)) {
        true => Ok(lines.into_iter().map(<[u8]>::to_vec).collect()),
        false => Err(Unreadable),
    }
}

/// Schemes whose credentials stay as they are from try to try. Any other may be made anew for each: of SigV4, Digest,
/// OAuth 1, Hawk, Negotiate and their kin it is known.
pub const SCHEMES: [&str; 5] = ["Basic", "Bearer", "DPoP", "Token", "ApiKey"];

/// Whether credentials of this scheme tell a caller; `more` are schemes that the operator has named.
fn tells(scheme: &[u8], more: &[String]) -> bool {
    let known = SCHEMES.into_iter().chain(more.iter().map(String::as_str));
    known.into_iter().any(|known| known.as_bytes().eq_ignore_ascii_case(scheme))
}

/// A value of `authorization`, taken apart.
struct Authorization<'a> {
    /// None where the whole value is one word.
    scheme: Option<&'a [u8]>,
    rest: &'a [u8],
}

impl<'a> Authorization<'a> {
    fn split(line: &'a [u8], more: &[String]) -> Self {
        let line = line.trim_ascii();
        match line.iter().position(u8::is_ascii_whitespace).and_then(|space| line.split_at_checked(space)) {
            Some((scheme, rest)) => Authorization { scheme: Some(scheme), rest: rest.trim_ascii_start() },
            // The name of a scheme alone is what is left of a credential, and the same for everybody.
            None if tells(line, more) || OTHERS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(line)) => {
                Authorization { scheme: Some(line), rest: b"" }
            }
            None => Authorization { scheme: None, rest: line },
        }
    }

    /// Whether this is a credential, of one caller, that stays as it is from try to try.
    fn tells_caller(&self, more: &[String]) -> bool {
        let is = |name: &str| self.scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(name.as_bytes()));
        // Envoy joins two lines with a comma, and the second may be of any scheme.
        let is_one_word = !self.rest.iter().any(|byte| *byte == b',' || byte.is_ascii_whitespace());
        match self.scheme {
            _ if shows_nothing(self.rest) => false,
            // "AKID:signature" and "bce-auth-v1/AKID/<time>/…/<signature>" are made anew for each try.
            None => !self.rest.iter().any(|byte| b",;:\"".contains(byte)) && !self.rest.starts_with(b"bce-auth-v"),
            // An empty user and an empty password.
            Some(_) if is("Basic") => is_one_word && self.rest != b"Og==",
            Some(_) if is("Bearer") || is("DPoP") => is_one_word,
            Some(_) if is("Token") || is("ApiKey") => match parameters(self.rest) {
                Some(parameters) => parameters.iter().any(|(_, value)| !shows_nothing(value)),
                None => is_one_word,
            },
            Some(scheme) => tells(scheme, more),
        }
    }
}

/// Whether this is what programs write where they have no credential; a lone "-" is Envoy's own word for it.
pub fn shows_nothing(value: &[u8]) -> bool {
    let is_around = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'"';
    let start = value.iter().position(|byte| !is_around(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_around(byte)).map_or(start, |last| last + 1);
    let word = value.get(start..end).unwrap_or_default();
    ["", "-", "(null)", "nil", "none", "null", "undefined"]
        .iter()
        .any(|none| word.eq_ignore_ascii_case(none.as_bytes()))
}

/// Names of other schemes, of which one alone is no token.
const OTHERS: [&str; 20] = [
    "AWS",
    "AWS4-ECDSA-P256-SHA256",
    "AWS4-HMAC-SHA256",
    "Concealed",
    "Digest",
    "GNAP",
    "Hawk",
    "HOBA",
    "Kerberos",
    "Mutual",
    "Negotiate",
    "NTLM",
    "OAuth",
    "PrivateToken",
    "SCRAM-SHA-1",
    "SCRAM-SHA-256",
    "SharedKey",
    "SharedKeyLite",
    "Signature",
    "vapid",
];

/// What stays of a signature from try to try: who has signed, as the signature itself says. A filter before this one
/// has verified it.
///
/// None where `authorization` holds no signature, but an ordinary credential or nothing.
pub fn signer(headers: &Headers) -> Result<Vec<Vec<u8>>, Unreadable> {
    let mut lines = headers.all("authorization").filter(|line| !line.trim_ascii().is_empty());
    let line = match (lines.next(), lines.next()) {
        (None, _) => return Ok(Vec::new()),
        (Some(line), None) => line,
        (Some(_), Some(_)) => return Err(Unreadable),
    };
    let Authorization { scheme: Some(scheme), rest } = Authorization::split(line, &[]) else { return Ok(Vec::new()) };
    let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
    if SCHEMES.into_iter().any(is) {
        return Ok(Vec::new());
    }
    let parameters = parameters(rest);
    let parameter = |name: &str| {
        let mut found = parameters.iter().flatten().filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
        // Two of one name do not say which one the verifier takes.
        found.next().filter(|_| found.next().is_none()).map(|(_, value)| value.clone())
    };
    let required = |name: &str| parameter(name).filter(|value| !value.is_empty()).ok_or(Unreadable);
    // A realm belongs to the user's name, a token to the consumer that acts for its user.
    let (kind, stays): (&str, Vec<Vec<u8>>) = if is("Digest") {
        // Which of the two names the verifier takes is not known here (RFC 7616, section 3.4).
        if parameters.iter().flatten().any(|(name, _)| name.eq_ignore_ascii_case(b"username*")) {
            return Err(Unreadable);
        }
        ("username", vec![required("username")?, parameter("realm").unwrap_or_default()])
    } else if is("OAuth") {
        ("consumer", vec![required("oauth_consumer_key")?, parameter("oauth_token").unwrap_or_default()])
    } else if is("Hawk") {
        ("id", vec![required("id")?])
    } else if is("Signature") {
        ("keyId", vec![required("keyId")?])
    } else if let Ok(credential) = required("Credential") {
        // "Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request": the scope after the id changes with the day.
        ("access key", vec![credential.split(|byte| *byte == b'/').next().unwrap_or_default().to_vec()])
    } else if is("AWS") || is("OSS") || is("SharedKey") || is("SharedKeyLite") {
        // "AWS AWSAccessKeyId:Signature"
        // A comma is where Envoy has joined two lines.
        let end = rest.iter().position(|byte| *byte == b':').filter(|_| !rest.contains(&b',')).ok_or(Unreadable)?;
        ("access key", vec![rest.get(..end).unwrap_or_default().to_vec()])
    } else {
        return Err(Unreadable);
    };
    match stays.first().is_some_and(|id| !id.trim_ascii().is_empty()) {
        true => Ok([vec![kind.as_bytes().to_vec()], stays].concat()),
        false => Err(Unreadable),
    }
}

/// One parameter: its name and its value without quotes.
type Parameter<'a> = (&'a [u8], Vec<u8>);

/// `name=value` and `name="value"`, between commas or white space; none of anything else. A value stays as it was
/// written, because not every verifier takes escapes away.
fn parameters(mut text: &[u8]) -> Option<Vec<Parameter<'_>>> {
    let mut found = Vec::new();
    let is_between = |byte: &u8| *byte == b',' || byte.is_ascii_whitespace();
    loop {
        let start = text.iter().position(|byte| !is_between(byte));
        let Some(left) = start.and_then(|start| text.get(start..)) else { return Some(found) };
        let (name, left) = left.split_at_checked(left.iter().position(|byte| *byte == b'=')?)?;
        let name = name.trim_ascii();
        // Envoy joins lines of one name: then a second scheme stands where a name should.
        if name.is_empty() || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
        {
            return None;
        }
        let left = left.get(1..)?;
        let (value, rest) = match left.strip_prefix(b"\"") {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (value, rest) = left.split_at_checked(left.iter().position(is_between).unwrap_or(left.len()))?;
                (value.to_vec(), rest)
            }
        };
        found.push((name, value));
        text = rest;
    }
}

/// The rest of a quoted string up to its end, and what follows (RFC 9110, section 5.6.4).
fn unquoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut value, mut bytes) = (Vec::new(), text.iter().enumerate());
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, text.get(at + 1..)?)),
            b'\\' => value.extend([*byte, *bytes.next()?.1]),
            byte => value.push(*byte),
        }
    }
    None
}
