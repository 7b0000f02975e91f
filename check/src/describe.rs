//! A configuration in words that an operator understands at the worst hour.
//!
//! Its one rule: what it says is what the parser made of the document, so defaults and merged policies are in it;
//! secrets are never looked at, only where they come from.
//! It does not know what stands around the filter.

pub use envoy_idempotency::config::words::{Line, all, either};
use envoy_idempotency::config::words::{bytes, count, time, times};
use envoy_idempotency::config::{Config, Dialect, SecretKey, Store};
use serde_json::Value;

/// Where records are kept, and under which secrets. `document` is what the configuration was read from.
pub fn store(config: &Config, document: &Value) -> Vec<Line> {
    let mut lines = Vec::new();
    match &config.store {
        Store::Local { max_bytes } => lines.push((
            "records",
            format!(
                "in this Envoy's memory, at most {}: shared by its workers, gone with its process, unknown to any other \
                 Envoy",
                bytes(*max_bytes)
            ),
        )),
        Store::Redis(redis) => {
            let way = match &redis.dialect {
                Dialect::Resp { login: None } => "on streams that stay open".to_owned(),
                Dialect::Resp { login: Some(_) } => "on streams that stay open and log in first".to_owned(),
                Dialect::Webdis(webdis) => format!("authority {}, path {}", webdis.authority, webdis.path),
            };
            let batching = if redis.batching { "" } else { " One operation to a call." };
            lines.push((
                "records",
                format!(
                    "in Redis, under the prefix {}, shared by all gateways; reached through cluster {} ({way}). A call \
                     may take {}, an operation is tried {}.{batching} After {} in a row all fail at once for {}.",
                    redis.prefix,
                    redis.cluster,
                    time(redis.timeout_ms),
                    times(redis.attempts),
                    count(redis.breaker.failures, "failed call"),
                    time(redis.breaker.open_ms),
                ),
            ));
            let cache = match &redis.cache {
                Some(cache) => format!(
                    "this Envoy remembers {} of records for {}, responses up to {}",
                    bytes(cache.max_bytes),
                    time(cache.ttl_ms),
                    bytes(cache.max_entry_bytes)
                ),
                None => "off: every request asks Redis".to_owned(),
            };
            lines.push(("cache", cache));
            for secret in ["authorization", "username", "password"] {
                if !document["store"][secret].is_null() {
                    lines.push((secret, origin(&document["store"][secret])));
                }
            }
        }
    }
    if let Some(path) = &config.status_path {
        lines.push(("look-up", format!("GET {path} tells callers the status of their own operations")));
    }
    lines.push((
        "names",
        match config.hash_key {
            Some(_) => format!("HMAC-SHA-256, its key {}", origin(&document["secrets"]["hash_key"])),
            None => "SHA-256, without a key".to_owned(),
        },
    ));
    let keys = |name: &str, keys: &[SecretKey]| -> Vec<String> {
        let given = document["secrets"][name].as_array().into_iter().flatten();
        keys.iter().zip(given).map(|(key, given)| format!("{} ({})", key.id, origin(&given["key"]))).collect()
    };
    if let [key, others @ ..] = keys("issuing", &config.issuing).as_slice() {
        let ttl = time(1000 * config.issued_ttl_s);
        let read = if others.is_empty() { String::new() } else { format!("; also known under {}", others.join(", ")) };
        let none = || "none are issued here".to_owned();
        let by = config.issue_path.as_ref().map_or_else(none, |path| format!("POST {path}"));
        lines.push(("issued keys", format!("{by}; they begin operations for {ttl}, signed under {key}{read}")));
    }
    lines.push((
        "responses",
        match keys("encryption", &config.encryption).as_slice() {
            [] => "kept in clear".to_owned(),
            [key] => format!("encrypted under {key}"),
            [key, others @ ..] => format!("encrypted under {key}; also read under {}", others.join(", ")),
        },
    ));
    lines
}

/// Where a secret comes from.
fn origin(secret: &Value) -> String {
    match secret["env"].as_str() {
        Some(name) => format!("from the variable {name}"),
        None => "written in the document".to_owned(),
    }
}

/// Which requests a rule is about, as the document has it; without a rule there are two methods.
pub fn requests(rule: Option<&Value>) -> Line {
    let Some(rule) = rule else { return ("requests", "POST or PATCH, every path".to_owned()) };
    let wanted = &rule["match"];
    let texts = |list: &Value, shown: fn(&Value) -> String| -> Vec<String> {
        list.as_array().into_iter().flatten().map(shown).collect()
    };
    let plain = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut said = vec![match texts(&wanted["methods"], plain).as_slice() {
        [] => "POST or PATCH".to_owned(),
        methods => either(&methods.iter().map(|name| method(name)).collect::<Vec<_>>()),
    }];
    match texts(&wanted["hosts"], plain).as_slice() {
        [] => {}
        hosts => said.push(format!("on host {}", either(hosts))),
    }
    let path = &wanted["path"];
    for (kind, words) in
        [("exact", "path"), ("prefix", "every path that begins with"), ("template", "paths of the form")]
    {
        if let Some(text) = path[kind].as_str() {
            said.push(format!("{words} {text}"));
        }
    }
    if path.is_null() {
        said.push("every path".to_owned());
    }
    said.extend(texts(&wanted["headers"], |header| match header["equals"].as_str() {
        Some(value) => format!("header {}: {value}", header["name"].as_str().unwrap_or_default()),
        None => format!("any header {}", header["name"].as_str().unwrap_or_default()),
    }));
    let metadata = &wanted["route_metadata"];
    if let [Some(namespace), Some(key), Some(value)] = ["namespace", "key", "equals"].map(|it| metadata[it].as_str()) {
        said.push(format!("route metadata {namespace}.{key} = {value}"));
    }
    ("requests", said.join(", "))
}

fn method(name: &str) -> String {
    match name {
        "*" => "every method that is not safe (all but GET, HEAD, OPTIONS, TRACE and CONNECT)".to_owned(),
        name => name.to_owned(),
    }
}
