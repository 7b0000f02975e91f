//! Where records are kept and under which secrets, as the document says it.
//!
//! Its one rule: a secret is never repeated, neither in an error nor in a warning.
//! It does not know what a store does.

use base64ct::{Base64, Encoding};
use serde_json::Value;

use super::text::{is_visible, plain, visible};
use super::walk::{DAY_S, Fields, GIB, MIB, Place, Read, flag};
use super::{Config, LEASE_MARGIN, Mode, Rule, SecretKey, Store};

/// `store` with `"type": "redis"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// The Envoy cluster that leads to the store.
    pub cluster: String,
    /// What is spoken there.
    pub dialect: Dialect,
    /// How long one call may take.
    pub timeout_ms: u64,
    /// Tries of one operation within the request's path.
    pub attempts: u32,
    /// In front of every Redis key.
    pub prefix: String,
    /// Whether one call may carry many operations.
    pub batching: bool,
    /// When operations fail at once.
    pub breaker: Breaker,
    /// What this Envoy remembers of the store.
    pub cache: Option<CacheBounds>,
}

impl Redis {
    /// Whether both find the same records, by the same credentials.
    pub fn is_same_store(&self, other: &Redis) -> bool {
        let place = |redis: &Redis| [&redis.cluster, &redis.prefix].map(Clone::clone);
        place(self) == place(other) && self.dialect == other.dialect
    }

    /// Where the records are, in words that tell it from any other place.
    pub fn place(&self) -> String {
        match &self.dialect {
            Dialect::Resp { .. } => format!("{} {}", self.cluster, self.prefix),
            Dialect::Webdis(webdis) => format!("{} {} {} {}", self.cluster, webdis.authority, webdis.path, self.prefix),
        }
    }
}

/// `store.dialect`, and the fields that only it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Redis's own protocol, on streams.
    Resp {
        /// What the stream logs in with.
        login: Option<Login>,
    },
    /// HTTP, to Webdis.
    Webdis(Webdis),
}

/// How many bytes of one response are kept in Redis at most.
pub const RESPONSE_MAX: usize = 32 << 20;

/// `store.username` and `store.password`.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Redis's default user unless given.
    pub username: Option<Vec<u8>>,
    /// The password.
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

/// How Webdis is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webdis {
    /// `:authority` of the calls.
    pub authority: String,
    /// In front of the path of every call; begins and ends with a slash.
    pub path: String,
    /// Value of the `authorization` header.
    pub authorization: Option<String>,
}

/// `store.breaker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// After so many transport failures in a row,
    pub failures: u32,
    /// for so long.
    pub open_ms: u64,
}

/// `store.cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheBounds {
    /// Bytes of all entries.
    pub max_bytes: u64,
    /// Bytes of one response.
    pub max_entry_bytes: u64,
    /// How long an entry counts.
    pub ttl_ms: u64,
}

/// Reads a variable of the VM's environment.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads `store`. A field of the other type is as unknown as any that there is not.
pub(super) fn store(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<Store> {
    at.object(value, |fields| {
        match fields.read("type", false, |at, value| at.choice(value, &[("local", false), ("redis", true)]))? {
            false => {
                let max_bytes = fields.read("max_bytes", 64 * MIB, |at, value| at.whole(value, MIB..=16 * GIB))?;
                Ok(Store::Local { max_bytes })
            }
            true => redis(fields, env).map(|redis| Store::Redis(Box::new(redis))),
        }
    })
}

fn redis(fields: &mut Fields<'_>, env: Environment<'_>) -> Read<Redis> {
    let cluster = fields.required("cluster", plain)?;
    let words = [("resp", Kind::Resp), ("webdis", Kind::Webdis)];
    let kind = fields.read("dialect", Kind::Resp, |at, value| at.choice(value, &words))?;
    Ok(Redis {
        dialect: match kind {
            Kind::Resp => resp(fields, &cluster, env)?,
            Kind::Webdis => webdis(fields, &cluster, env)?,
        },
        cluster,
        timeout_ms: fields.read("timeout_ms", 250, |at, value| at.whole(value, 10..=60_000))?,
        attempts: fields.read("attempts", 2, |at, value| at.whole(value, 1..=10))? as u32,
        prefix: fields.read("prefix", "idem:".to_owned(), |at, value| visible(at, value, 1..=128))?,
        batching: fields.read("batching", true, flag)?,
        breaker: fields.nested("breaker", |at, value| {
            at.object(value, |fields| {
                Ok(Breaker {
                    failures: fields.read("failures", 5, |at, value| at.whole(value, 1..=1000))? as u32,
                    open_ms: fields.read("open_ms", 1000, |at, value| at.whole(value, 10..=60_000))?,
                })
            })
        })?,
        cache: fields.nested("cache", |at, value| match value {
            Value::Null => Ok(None),
            value => cache(at, value).map(Some),
        })?,
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Resp,
    Webdis,
}

fn resp(fields: &mut Fields<'_>, cluster: &str, env: Environment<'_>) -> Read<Dialect> {
    if cluster.len() > STREAM_CLUSTER_MAX {
        return Err(fields.at("cluster").error(format_args!(
            "must be at most {STREAM_CLUSTER_MAX} bytes long with dialect \"resp\", is {}",
            cluster.len()
        )));
    }
    for name in ["authority", "path", "authorization"] {
        fields.refuse(name, "is how HTTP is spoken, so it wants dialect \"webdis\" beside it")?;
    }
    let username = fields.read("username", None, |at, value| text_or_variable(at, value, env).map(Some))?;
    let password = fields.read("password", None, |at, value| secret(&at.as_secret(), value, env).map(Some))?;
    match (username, password) {
        (username, Some(password)) => Ok(Dialect::Resp { login: Some(Login { username, password }) }),
        (Some(_), None) => Err(fields.at("username").error("must not be there without password")),
        (None, None) => Ok(Dialect::Resp { login: None }),
    }
}

fn webdis(fields: &mut Fields<'_>, cluster: &str, env: Environment<'_>) -> Read<Dialect> {
    for name in ["username", "password"] {
        fields.refuse(name, "is what a stream logs in with, so it wants dialect \"resp\"; Webdis has its own")?;
    }
    Ok(Dialect::Webdis(Webdis {
        authority: fields.read("authority", cluster.to_owned(), |at, value| visible(at, value, 1..=255))?,
        path: fields.read("path", "/".to_owned(), |at, value| {
            let fits = |text: &str| text.starts_with('/') && is_visible(text, &(1..=255)) && !text.contains(['?', '#']);
            let path =
                at.text(value, "a path of visible ASCII characters that begins with /, without ? and #", fits)?;
            Ok(format!("{}/", path.trim_end_matches('/')))
        })?,
        authorization: fields.read("authorization", None, |at, value| {
            let value = secret(&at.as_secret(), value, env)?;
            match String::from_utf8(value) {
                Ok(text) if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => Ok(Some(text)),
                _ => Err(at.error("must be ASCII without control characters")),
            }
        })?,
    }))
}

fn cache(at: &Place<'_>, value: &Value) -> Read<CacheBounds> {
    let bounds = at.object(value, |fields| {
        Ok(CacheBounds {
            max_bytes: fields.read("max_bytes", 16 * MIB, |at, value| at.whole(value, MIB..=16 * GIB))?,
            max_entry_bytes: fields.read("max_entry_bytes", 16_384, |at, value| at.whole(value, 1..=16 * MIB))?,
            ttl_ms: 1000 * fields.read("ttl_s", 60, |at, value| at.whole(value, 1..=DAY_S))?,
        })
    })?;
    // Half of the bytes are for large entries, and a few of these there should be.
    match bounds.max_entry_bytes > bounds.max_bytes / 8 {
        true => Err(at.member("max_entry_bytes").error(format_args!(
            "must be at most an eighth of max_bytes ({}), is {}",
            bounds.max_bytes / 8,
            bounds.max_entry_bytes
        ))),
        false => Ok(bounds),
    }
}

/// What `secrets` holds: the key of names, those of stored responses, those of issued keys.
type Secrets = (Option<Vec<u8>>, Vec<SecretKey>, Vec<SecretKey>);

/// Reads `secrets`.
pub(super) fn secrets(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<Secrets> {
    at.object(value, |fields| {
        let hash_key = fields.read("hash_key", None, |at, value| secret(at, value, env).map(Some))?;
        let encryption = fields.read("encryption", Vec::new(), |at, value| secret_keys(at, value, env))?;
        let issuing = fields.read("issuing", Vec::new(), |at, value| secret_keys(at, value, env))?;
        Ok((hash_key, encryption, issuing))
    })
}

fn secret_keys(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<Vec<SecretKey>> {
    let keys = at.filled_list(value, |at, value| secret_key(at, value, env))?;
    for (index, key) in keys.iter().enumerate() {
        if keys.iter().take(index).any(|other| other.id == key.id) {
            return Err(at.item(index).member("id").error("is the id of another key too"));
        }
    }
    Ok(keys)
}

fn secret_key(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<SecretKey> {
    at.object(value, |fields| {
        Ok(SecretKey {
            id: fields.required("id", |at, value| visible(at, value, 1..=32))?,
            key: fields.required("key", |at, value| {
                let text = secret(at, value, env)?;
                let mut key = [0; 32];
                match Base64::decode(text.trim_ascii(), &mut key).map(<[u8]>::len) {
                    Ok(32) => Ok(key),
                    _ => Err(at.error("must be 32 bytes in base64: openssl rand -base64 32")),
                }
            })?,
        })
    })
}

/// Reads a secret that stands here or, better, in the environment.
pub(super) fn secret(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<Vec<u8>> {
    let text = text_or_variable(at, value, env)?;
    if value.is_string() {
        at.warn("can be read in Envoy's config dump; give {\"env\": NAME} instead");
    }
    Ok(text)
}

fn text_or_variable(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<Vec<u8>> {
    let text = match value {
        Value::Object(_) => at.object(value, |fields| {
            fields.required("env", |at, value| {
                let name = plain(at, value)?;
                // The name is not repeated: it may be the secret itself, put in the wrong place.
                env(&name).ok_or_else(|| at.error("names a variable that the VM's environment does not have"))
            })
        })?,
        Value::String(text) => text.clone(),
        _ => return Err(at.wrong("a string or {\"env\": NAME}", value)),
    };
    if text.is_empty() { Err(at.error("must not be empty")) } else { Ok(text.into_bytes()) }
}

/// A table that no response of the allowed size fits would keep none of them, and a larger one than a dialect carries
/// does not come back from Redis.
pub(super) fn refuse_bodies_that_never_fit(store: &Place<'_>, config: &Config) -> Read<()> {
    let largest = config.rules.iter().map(|rule| rule.policy.max_response_bytes).max().unwrap_or(0);
    match &config.store {
        Store::Local { max_bytes } if *max_bytes < largest => Err(store
            .member("max_bytes")
            .error(format_args!("must be at least max_response_bytes ({largest}), is {max_bytes}"))),
        Store::Redis(redis) if largest > redis.dialect.response_max() => Err(store.error(format_args!(
            "carries responses of at most {} bytes in Redis, and max_response_bytes is {largest}",
            redis.dialect.response_max()
        ))),
        _ => Ok(()),
    }
}

/// A store that takes nearly its time-out for every answer grants no claim that is still fresh.
pub(super) fn warn_of_claims_that_come_too_late(store: &Place<'_>, config: &Config) {
    let Store::Redis(redis) = &config.store else { return };
    let claiming = config.rules.iter().filter(|rule| matches!(rule.policy.mode, Mode::Enforce | Mode::Observe));
    let most = |rule: &Rule| rule.policy.lease_ms - rule.policy.lease_ms / LEASE_MARGIN;
    let shortest = claiming.min_by_key(|rule| rule.policy.lease_ms);
    if let Some(rule) = shortest.filter(|rule| redis.timeout_ms >= most(rule)) {
        let (ms, most, name) = (redis.timeout_ms, most(rule), &rule.name);
        store.member("timeout_ms").warn(&format!(
            "is {ms}, and should be below {most}, four fifths of lease_ms of rule {name}: a claim that comes later is never \
             fresh, so with a slow store nothing runs"
        ));
    }
}

impl Dialect {
    /// How large a response may be that is kept.
    fn response_max(&self) -> u64 {
        match self {
            Dialect::Resp { .. } => RESPONSE_MAX as u64,
            // Envoy gives up a callout whose response is over 32 MiB.
            Dialect::Webdis(_) => 16 * MIB,
        }
    }
}

/// The module names a stream's cluster to Envoy in a message whose lengths are bytes below 128.
const STREAM_CLUSTER_MAX: usize = 120;
