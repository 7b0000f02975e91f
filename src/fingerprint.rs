//! What makes two requests the same: a hash over the payload parts that the policy names.
//!
//! Its one rule: a body streams through, and is kept only where what it says is asked for.
//! It does not know the key, nor who is asking.

use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use crate::config::{BodyPart, MEANINGFUL, Members, Policy, Separation};
use crate::digest::{Digest, HashKey};
use crate::form;
use crate::json;
use crate::key::{self, Name};
use crate::message::{RequestHead, media_type};

/// The hash of a request's payload.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(pub [u8; 32]);

/// Compared in constant time, so that a stored payload cannot be felt for byte by byte.
impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Fingerprint {}

impl Fingerprint {
    /// The name of a record of its own for this payload.
    pub fn joined_to(&self, name: &Name, hash_key: Option<&HashKey>) -> Name {
        let mut digest = Digest::new("name of a payload", hash_key);
        digest.part("name", &name.0);
        digest.part("fingerprint", &self.0);
        Name(digest.finish())
    }
}

/// A fingerprint under way.
pub struct Payload {
    digest: Digest,
    form: Form,
    /// The body, where it must be read as a whole.
    kept: Option<Vec<u8>>,
}

/// In which form the body is part of the fingerprint.
enum Form {
    /// As it comes.
    Bytes,
    /// As what it says, as far as that counts.
    Json(Members),
    /// As the pieces between its delimiters, which a client chooses anew for every request.
    Multipart(Vec<u8>),
    /// Not at all.
    Off,
}

impl Payload {
    /// Takes what the head contributes: what the scope only compares, the query and the headers that count.
    pub fn new(policy: &Policy, hash_key: Option<&HashKey>, head: &RequestHead) -> Self {
        let mut digest = Digest::new("fingerprint", hash_key);
        key::digest_target(&mut digest, policy, Separation::Compared, head);
        if policy.fingerprint.query {
            digest.list("query", head.query().into_iter());
        }
        let chosen = policy.fingerprint.headers.iter().map(String::as_str);
        let is_chosen = |name: &str| policy.fingerprint.headers.iter().any(|chosen| chosen == name);
        let meant = MEANINGFUL.into_iter().filter(|name| head.headers.has(name) && !is_chosen(name));
        for name in chosen.chain(meant) {
            digest.part("header", name.as_bytes());
            match name {
                "content-type" => {
                    let types: Vec<_> = head.headers.all(name).map(media_type).collect();
                    digest.list("media type", types.iter().map(Vec::as_slice));
                }
                _ => digest.list("lines", head.headers.all(name).collect::<Vec<_>>().into_iter()),
            }
        }
        let form = match (&policy.fingerprint.body, head.headers.first("content-type").and_then(form::boundary)) {
            (BodyPart::Off, _) => Form::Off,
            (_, Some(boundary)) => Form::Multipart(boundary),
            (BodyPart::Json(members), None) => Form::Json(members.clone()),
            (BodyPart::Bytes, None) => Form::Bytes,
        };
        let is_kept = policy.is_named_by_body() || matches!(form, Form::Json(_) | Form::Multipart(_));
        if matches!(form, Form::Bytes | Form::Off) {
            digest.open_tail("body");
        }
        Payload { digest, form, kept: is_kept.then(Vec::new) }
    }

    /// Takes the next bytes of the body.
    pub fn body(&mut self, chunk: &[u8]) {
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(chunk);
        }
        if matches!(self.form, Form::Bytes) {
            self.digest.feed(chunk);
        }
    }

    /// Whether it keeps the body.
    pub fn keeps_body(&self) -> bool {
        self.kept.is_some()
    }

    /// The fingerprint of everything taken, and the body, where it was kept.
    pub fn finish(self) -> (Fingerprint, Vec<u8>) {
        let (mut digest, body) = (self.digest, self.kept.unwrap_or_default());
        match self.form {
            Form::Bytes | Form::Off => {}
            Form::Json(members) => match canonical(&body, &members) {
                Some(canonical) => digest.part(label(&members), &canonical),
                None => {
                    digest.open_tail("body");
                    digest.feed(&body);
                }
            },
            Form::Multipart(boundary) => digest.list("pieces", form::pieces(&body, &boundary).into_iter()),
        }
        (Fingerprint(digest.finish()), body)
    }
}

/// What a body says as JSON; nothing where it says nothing, or something that not every reader understands alike.
fn canonical(body: &[u8], members: &Members) -> Option<Vec<u8>> {
    let mut value = json::parse(body).ok().filter(|_| json::is_exact(body))?;
    match members {
        Members::AllBut(ignored) => {
            ignored.iter().for_each(|place| place.remove_from(&mut value));
        }
        Members::Only(only) => {
            let mut there = Map::new();
            // One by one, because `collect` brings a sort with it.
            for place in only {
                let found = place.find(&value);
                let mut values = found.values.into_iter().map(Option::<&Value>::cloned);
                // An element without it differs from one that has null there.
                let member = match found.is_of_each {
                    true => Some(values.map(Value::from_iter).collect()),
                    false => values.next().flatten(),
                };
                if let Some(member) = member {
                    there.insert(place.to_string(), member);
                }
            }
            value = Value::Object(there);
        }
    }
    Some(json::canonical(&value))
}

/// What tells a whole body from the members of another.
fn label(members: &Members) -> &'static str {
    match members {
        Members::AllBut(_) => "json",
        Members::Only(_) => "json members",
    }
}
