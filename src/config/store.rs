//! Where records are kept and under which secrets, as the document says it.
//!
//! Its one rule: a secret is never repeated, neither in an error nor in a warning.
//! It does not know what a store does.

use base64ct::{Base64, Encoding};
use serde_json::Value;

use super::text::{is_visible, plain, visible};
use super::walk::{DAY_S, Fields, GIB, MIB, Place, Read, flag};
use super::{Breaker, CacheBounds, Config, EncryptionKey, LEASE_MARGIN, Mode, Redis, Rule, Store};

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
    fields.read("dialect", (), |at, value| at.choice(value, &[("webdis", ())]))?;
    Ok(Redis {
        authority: fields.read("authority", cluster.clone(), |at, value| visible(at, value, 1..=255))?,
        cluster,
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

/// Reads `secrets`: the key of names, and those of stored responses.
pub(super) fn secrets(
    at: &Place<'_>,
    value: &Value,
    env: Environment<'_>,
) -> Read<(Option<Vec<u8>>, Vec<EncryptionKey>)> {
    at.object(value, |fields| {
        let hash_key = fields.read("hash_key", None, |at, value| secret(at, value, env).map(Some))?;
        let encryption = fields.read("encryption", Vec::new(), |at, value| {
            let keys = at.filled_list(value, |at, value| encryption_key(at, value, env))?;
            for (index, key) in keys.iter().enumerate() {
                if keys.iter().take(index).any(|other| other.id == key.id) {
                    return Err(at.item(index).member("id").error("is the id of another key too"));
                }
            }
            Ok(keys)
        })?;
        Ok((hash_key, encryption))
    })
}

fn encryption_key(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<EncryptionKey> {
    at.object(value, |fields| {
        Ok(EncryptionKey {
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
fn secret(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<Vec<u8>> {
    let text = match value {
        Value::Object(_) => at.object(value, |fields| {
            fields.required("env", |at, value| {
                let name = plain(at, value)?;
                // The name is not repeated: it may be the secret itself, put in the wrong place.
                env(&name).ok_or_else(|| at.error("names a variable that the VM's environment does not have"))
            })
        })?,
        Value::String(text) => {
            at.warn("can be read in Envoy's config dump; give {\"env\": NAME} instead");
            text.clone()
        }
        _ => return Err(at.wrong("a string or {\"env\": NAME}", value)),
    };
    if text.is_empty() { Err(at.error("must not be empty")) } else { Ok(text.into_bytes()) }
}

/// A table that no response of the allowed size fits would keep none of them, and Envoy does not carry a larger one
/// back from Redis than it takes from a callout.
pub(super) fn refuse_bodies_that_never_fit(store: &Place<'_>, config: &Config) -> Read<()> {
    let largest = config.rules.iter().map(|rule| rule.policy.max_response_bytes).max().unwrap_or(0);
    match config.store {
        Store::Local { max_bytes } if max_bytes < largest => Err(store
            .member("max_bytes")
            .error(format_args!("must be at least max_response_bytes ({largest}), is {max_bytes}"))),
        Store::Redis(_) if largest > REDIS_RESPONSE_MAX => Err(store.error(format_args!(
            "carries responses of at most {REDIS_RESPONSE_MAX} bytes in Redis, and max_response_bytes is {largest}"
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

/// Envoy gives up a callout whose response is over 32 MiB.
const REDIS_RESPONSE_MAX: u64 = 16 * MIB;
