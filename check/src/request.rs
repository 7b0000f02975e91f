//! A request that the operator asks about.
//!
//! Its one rule: it is what the filter would see of it, no more: the fields as written, names in lower case.
//! It does not know any rule.

use envoy_idempotency::message::{Headers, RequestHead};

/// A request as the operator gave it.
pub struct Given {
    /// Method and target.
    pub line: String,
    /// Its head, as Envoy shows it.
    pub head: RequestHead,
    /// Its body; none is no body.
    pub body: Vec<u8>,
    /// Whether it says which host it is for.
    pub has_host: bool,
}

impl Given {
    /// Reads `POST /path` or `POST https://host/path`, lines of `name: value`, and a body.
    ///
    /// # Errors
    /// One of them has another form.
    pub fn parse(line: &str, headers: &[String], body: Option<String>) -> Result<Self, String> {
        let wrong = || format!("a request must be a method and a target, such as 'POST /v1/payments', is {line:?}");
        let (method, target) = line.trim().split_once(' ').ok_or_else(wrong)?;
        let (scheme, rest) = target.trim().split_once("://").map_or((None, target.trim()), |(a, b)| (Some(a), b));
        let (host, path) = match (scheme, rest.find('/')) {
            (None, Some(0)) => (None, rest.to_owned()),
            (Some(_), Some(slash)) => (rest.get(..slash), rest.get(slash..).unwrap_or_default().to_owned()),
            (Some(_), None) => (Some(rest), "/".to_owned()),
            (None, _) => return Err(wrong()),
        };
        let mut fields = Vec::new();
        for header in headers {
            let (name, value) = header.split_once(':').ok_or(format!("-H must be 'name: value', is {header:?}"))?;
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        let given_host = fields.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone());
        let authority = given_host.as_deref().or(host);
        let has_host = authority.is_some();
        let authority = authority.unwrap_or("gateway").to_owned();
        let mut all = vec![
            (":method".to_owned(), method.to_owned()),
            (":scheme".to_owned(), scheme.unwrap_or("https").to_owned()),
            (":authority".to_owned(), authority),
            (":path".to_owned(), path),
        ];
        all.extend(fields.into_iter().filter(|(name, _)| name != "host"));
        let body = body.unwrap_or_default().into_bytes();
        if !body.is_empty() {
            all.push(("content-length".to_owned(), body.len().to_string()));
        }
        Ok(Given {
            line: line.trim().to_owned(),
            head: RequestHead { headers: all.into_iter().collect() },
            body,
            has_host,
        })
    }

    /// Its head with this path in the place of its own; the query stays.
    pub fn head_at(&self, path: &str) -> RequestHead {
        let target = String::from_utf8_lossy(self.head.headers.first(":path").unwrap_or_default()).into_owned();
        let query = target.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
        let changed = |(name, value): (&[u8], &[u8])| match name {
            b":path" => (name.to_vec(), format!("{path}{query}").into_bytes()),
            _ => (name.to_vec(), value.to_vec()),
        };
        RequestHead { headers: self.head.headers.iter().map(changed).collect::<Headers>() }
    }
}
